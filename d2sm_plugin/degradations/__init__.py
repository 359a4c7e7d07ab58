"""Degradations of images, which combine; every ``*_degradation.py`` registers classes in ``DEGRADATION_REGISTRY``."""
