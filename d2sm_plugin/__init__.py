"""Deep Semantic Statistics Matching (D2SM) for BasicSR.

Importing this package mends the host (see :mod:`d2sm_plugin.compat`) and registers every network, objective,
dataset, metric and model of the plugin in BasicSR's registries.
"""

from __future__ import annotations

from d2sm_plugin import compat  # isort: skip  # must come before anything that imports basicsr

compat.mend_torchvision()

from d2sm_plugin.registry import import_modules_with_suffix  # noqa: E402
from d2sm_plugin.version import __version__  # noqa: E402

__all__ = ["__version__"]

for _package, _suffix in (
    ("archs", "_arch"),
    ("losses", "_loss"),
    ("losses", "_sampler"),
    ("data", "_dataset"),
    ("metrics", "_metric"),
    ("models", "_model"),
):
    import_modules_with_suffix(f"{__name__}.{_package}", _suffix)
