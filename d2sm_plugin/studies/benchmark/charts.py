"""``d2sm benchmark --charts``: cost of a step against the queue, and its memory against the batch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2sm_plugin.files import whole_file
from d2sm_plugin.studies.benchmark.cases.loss import formula_step, full_queue_step
from d2sm_plugin.studies.benchmark.measure import Settings, Step, timed
from d2sm_plugin.studies.benchmark.paper import CARDS, PAPER, TINY, plan, variants

_COLOURS = ("tab:grey", "tab:blue", "tab:green", "tab:orange")
_GIB = 2**30


def draw_charts(folder: Path, settings: Settings) -> None:
    """Measure and draw ``speed_queue.png`` and ``speed_memory.png`` in a folder."""
    _draw(folder / "speed_queue.png", _queue_chart, settings)
    _draw(folder / "speed_memory.png", _memory_chart, settings)


def _draw(file: Path, chart: Callable[[Any, Settings], None], settings: Settings) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    chart(axes, settings)
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(file) as picture:
        figure.savefig(picture, dpi=130, format="png")


def _queue_chart(axes: Any, settings: Settings) -> None:
    """Time of a step in units of the shortest one, as milliseconds depend on the machine."""
    sizes = (256, 512) if settings.small else (256, 1024, 4096, 16384)
    of_queue = [_time(full_queue_step(size, settings)(), settings) for size in sizes]
    of_formula = [_time(formula_step(size, settings), settings) for size in sizes if size <= 4096]
    axes.loglog(sizes[: len(of_formula)], [t / of_queue[0] for t in of_formula], "s-", label="formula, autograd")
    axes.loglog(sizes, [time / of_queue[0] for time in of_queue], "o-", label="QueueSampler")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("samples in the queue")
    axes.set_ylabel(f"time of a step (QueueSampler, {sizes[0]}: 1)")
    axes.set_title("32 new samples of 4096 values, forward and backward", fontsize=10)


def _time(step: Step, settings: Settings) -> float:
    step()
    kind = 1 if settings.device.type == "cpu" else 0  # CPU time, or wall time on a GPU
    return statistics.median(timed(step, settings.device)[kind] for _ in range(min(3, settings.repeats)))


def _memory_chart(axes: Any, settings: Settings) -> None:
    """Planned memory, which grows by as much with every image once there are some."""
    size = TINY if settings.small else PAPER
    few, more, most = 2, 6, 128
    for (name, _), colour in zip(variants(size).items(), _COLOURS, strict=True):
        peaks = [plan(size, name, batch) / _GIB for batch in (few, more)]
        of_image = (peaks[1] - peaks[0]) / (more - few)
        dashes = ":" if "bf16" in name else "-"
        axes.plot([few, most], [peaks[0], peaks[0] + (most - few) * of_image], dashes, color=colour, label=name)
    if not settings.small:
        for card in CARDS:
            axes.axhline(card, color="black", linewidth=0.6, linestyle="--")
            axes.annotate(f"{card} GiB", (most, card), ha="right", va="bottom", fontsize=8)
    axes.axvline(size.batch, color="black", linewidth=0.6, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"images of {size.crop}x{size.crop} in a batch (the paper's: {size.batch})")
    axes.set_ylabel("GiB at the peak of a step, planned")
    axes.set_title("FFDNet, L1 + D2SM over VGG19, float32", fontsize=10)
