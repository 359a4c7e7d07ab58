"""Deep Semantic Statistics Matching (D2SM), as a plain PyTorch objective and as a plugin for BasicSR.

``from d2sm_plugin.losses import D2SMLoss`` needs PyTorch alone. Where BasicSR is installed, importing this package
mends it (see :mod:`d2sm_plugin.compat`) and makes every network, objective, dataset, metric and model of the plugin
known to its registries (see :mod:`d2sm_plugin.host_import`); :func:`register_in` does so in other projects.
"""

from __future__ import annotations

from d2sm_plugin.compat import mend_torchvision
from d2sm_plugin.host_import import join_host
from d2sm_plugin.registry import register_in
from d2sm_plugin.version import __version__

__all__ = ["__version__", "register_in"]

mend_torchvision()
join_host()
