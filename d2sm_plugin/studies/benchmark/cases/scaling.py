"""Weak scaling of the loss: processes with equally many samples each, gathered into one joint batch."""

from __future__ import annotations

from functools import partial

import torch

from d2sm_plugin.studies.benchmark.measure import Case, Settings
from d2sm_plugin.studies.benchmark.processes import prepare_processes

_ROWS, _DIMENSION = 32, 1280


def build(settings: Settings, queue: int = 1024) -> Case:
    """One, two and four processes (one and two with short queues when small), by gloo on the CPU, one thread each.

    On GPUs it is one for each, by NCCL, as many as there are.
    """
    counts: tuple[int, ...] = (1, 2) if settings.small else (1, 2, 4)
    size = 64 if settings.small else queue
    if settings.device.type == "cuda":
        counts = tuple(count for count in (1, 2, 4, 8) if count <= torch.cuda.device_count())
    arguments = settings.device.type, _ROWS, _DIMENSION, size
    return Case(
        f"loss step of each of several processes, q={size:,}, N={_ROWS} each, D={_DIMENSION}",
        "1 process",
        {
            "1 process": partial(prepare_processes, 1, *arguments),
            **{
                f"{count} processes, each compares {name}": partial(prepare_processes, count, *arguments, shared)
                for name, shared in (("all", False), ("its own", True))
                for count in counts[1:]
            },
        },
        rounds=9,
        in_this_process=False,
    )
