"""Destinations of a run's values and pictures; every ``*_logger.py`` registers its class in ``LOGGER_REGISTRY``."""
