"""One step of the divergence over a full queue, without extractor, against the formula as the paper prints it."""

from __future__ import annotations

from collections.abc import Callable

from d2sm_plugin.benchmark.formula import PrintedQueue
from d2sm_plugin.benchmark.material import ARRIVING, feature_pair
from d2sm_plugin.benchmark.measure import Case, Settings, Step
from d2sm_plugin.losses import QueueSampler


def build(settings: Settings) -> Case:
    """A queue of 4096 samples (512 when small) of 4096 values, 32 new ones, forward and backward, float32."""
    size = 512 if settings.small else 4096
    return Case(
        f"loss step, q={size}, N={ARRIVING}, D=4096",
        "formula",
        {
            "formula": lambda: _formula(size, settings),
            "queue": full_queue_step(size, settings),
            "queue, bfloat16 storage": full_queue_step(size, settings, dtype="bfloat16"),
        },
        rounds=5,
    )


def full_queue_step(size: int, settings: Settings, **options: str) -> Callable[[], Step]:
    """Return what prepares a full queue of this size and returns its step."""

    def prepare() -> Step:
        queue = QueueSampler(size, **options).to(settings.device)
        batch = feature_pair(ARRIVING, settings, seed=0)
        queue(*batch)
        _fill(queue)

        def step() -> None:
            queue(*batch).backward()

        return step

    return prepare


def _fill(queue: QueueSampler) -> None:
    """Make a queue that holds one batch a full one: time does not depend on what it holds, and filling takes long."""
    stored = queue.restored[:ARRIVING], queue.difference[:ARRIVING]
    for buffer, rows in zip((queue.restored, queue.difference), stored, strict=True):
        buffer.copy_(rows.repeat(queue.size // ARRIVING, 1))
    queue.sums.copy_(queue.sums[:, :1] * (queue.size / ARRIVING))
    queue.filled.fill_(queue.size)
    queue.ledger.covered.fill_(queue.size)


def _formula(size: int, settings: Settings) -> Step:
    queue = PrintedQueue(*feature_pair(size, settings, seed=1))
    restored, clear = feature_pair(ARRIVING, settings, seed=0)

    def step() -> None:
        queue(restored, clear).backward()

    return step
