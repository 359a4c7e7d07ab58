"""Reading training crops out of prepared windows."""

from __future__ import annotations

from d2sm_plugin.studies.benchmark.cases import reading
from d2sm_plugin.studies.benchmark.measure import Case, Settings


def build(settings: Settings) -> Case:
    """As ``reading``, out of LMDBs of windows."""
    return reading.build(settings, windows=True)
