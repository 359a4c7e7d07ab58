"""Weak scaling of the loss: processes with equally many samples each, gathered into one joint batch."""

from __future__ import annotations

from functools import partial

from d2sm_plugin.studies.benchmark.measure import Case, Settings
from d2sm_plugin.studies.benchmark.processes import prepare_processes

_ROWS, _DIMENSION = 32, 1280


def build(settings: Settings, queue: int = 1024) -> Case:
    """One, two and four gloo processes on the CPU (one and two with short queues when small), one thread each."""
    counts, size = ((1, 2), 64) if settings.small else ((1, 2, 4), queue)
    return Case(
        f"loss step of each of several processes, q={size:,}, N={_ROWS} each, D={_DIMENSION}",
        "1 process",
        {
            f"{count} process{'es' if count > 1 else ''}": partial(prepare_processes, count, _ROWS, _DIMENSION, size)
            for count in counts
        },
        rounds=9,
        in_this_process=False,
    )
