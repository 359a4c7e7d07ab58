"""Networks; every ``*_arch.py`` registers its classes in BasicSR's ``ARCH_REGISTRY``."""
