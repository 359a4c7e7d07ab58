"""One step of the divergence over a full queue, without extractor, against the formula as the paper prints it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from d2sm_plugin.losses import QueueSampler
from d2sm_plugin.statistics.formula import PrintedQueue
from d2sm_plugin.studies.benchmark.material import ARRIVING, feature_pair, fill_queue
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step


def build(settings: Settings) -> Case:
    """A queue of 4096 samples (512 when small) of 4096 values, 32 new ones, forward and backward, float32."""
    size = 512 if settings.small else 4096
    return Case(
        f"loss step, q={size}, N={ARRIVING}, D=4096",
        "formula",
        {
            "formula": lambda: formula_step(size, settings),
            "queue": full_queue_step(size, settings),
            "queue, bfloat16 storage": full_queue_step(size, settings, dtype="bfloat16"),
        },
        rounds=5,
    )


def full_queue_step(size: int, settings: Settings, **options: Any) -> Callable[[], Step]:
    """Return what prepares a full queue of this size and returns its step."""

    def prepare() -> Step:
        queue = QueueSampler(size, **options).to(settings.device)
        batch = feature_pair(ARRIVING, settings, seed=0)
        queue(*batch)
        fill_queue(queue)

        def step() -> None:
            queue(*batch).backward()

        return step

    return prepare


def formula_step(size: int, settings: Settings) -> Step:
    """Return a step of the formula with a full queue of this size."""
    queue = PrintedQueue(*feature_pair(size, settings, seed=1))
    restored, clear = feature_pair(ARRIVING, settings, seed=0)

    def step() -> None:
        queue(restored, clear).backward()

    return step
