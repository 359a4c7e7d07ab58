"""Image and set metrics; every ``*_metric.py`` registers its functions in BasicSR's ``METRIC_REGISTRY``."""
