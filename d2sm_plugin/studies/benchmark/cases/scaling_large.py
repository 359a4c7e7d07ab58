"""Weak scaling of the loss with a large queue."""

from __future__ import annotations

from d2sm_plugin.studies.benchmark.cases import scaling
from d2sm_plugin.studies.benchmark.measure import Case, Settings


def build(settings: Settings) -> Case:
    """As ``scaling``, with a queue of 16,384."""
    return scaling.build(settings, 16384)
