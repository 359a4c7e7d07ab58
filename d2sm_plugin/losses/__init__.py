"""Objectives; every ``*_loss.py`` registers its classes in BasicSR's ``LOSS_REGISTRY``."""
