"""The cases of ``tools/benchmark.py``: each module has ``build(settings) -> Case`` and stands for one case."""

from __future__ import annotations

import importlib

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.studies.benchmark.measure import Case, Settings

#: In the order of the table.
NAMES = (
    "loss",
    "queue",
    "scaling",
    "scaling_large",
    "perceptual",
    "patches",
    "iteration",
    "arithmetic",
    "recommended",
    "precision",
    "compile",
    "reading",
    "reading_windows",
    "segmentation",
)


def check_name(name: str) -> None:
    """Raise an OptionError unless there is a case of this name."""
    if name not in NAMES:
        raise OptionError(f"benchmark: no case '{name}'{suggest(name, NAMES)}")


def build_case(name: str, settings: Settings) -> Case:
    """Return the case of this name.

    Raises:
        OptionError: for an unknown name.
    """
    check_name(name)
    return importlib.import_module(f"d2sm_plugin.studies.benchmark.cases.{name}").build(settings)
