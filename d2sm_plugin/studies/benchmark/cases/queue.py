"""Time of a step against the size of the queue."""

from __future__ import annotations

from d2sm_plugin.studies.benchmark.cases.loss import full_queue_step
from d2sm_plugin.studies.benchmark.measure import Case, Settings


def build(settings: Settings) -> Case:
    """Full queues of 4096 to 65,536 samples of 4096 values, 32 new ones, stored in bfloat16."""
    sizes = (256, 512, 1024) if settings.small else (4096, 16384, 65536)
    variants = {f"q={size:,}": full_queue_step(size, settings, dtype="bfloat16") for size in sizes}
    return Case("loss step by queue size, N=32, D=4096, bfloat16 storage", f"q={sizes[0]:,}", variants, rounds=5)
