"""Mends what keeps BasicSR 1.4.2 from importing beside current libraries, in memory only."""

from __future__ import annotations

import importlib.util
import sys

_REMOVED_MODULE = "torchvision.transforms.functional_tensor"


def mend_torchvision() -> None:
    """Give ``import basicsr`` the torchvision module that it asks for and that newer releases removed.

    torchvision 0.17 dropped ``torchvision.transforms.functional_tensor``; the one function BasicSR takes from it
    (``rgb_to_grayscale``) lives on in ``torchvision.transforms.functional``. The removed name becomes an alias of
    that module. Where torchvision still has the module, nothing is done.
    """
    if _REMOVED_MODULE in sys.modules or importlib.util.find_spec(_REMOVED_MODULE) is not None:
        return
    from torchvision.transforms import functional

    sys.modules[_REMOVED_MODULE] = functional
