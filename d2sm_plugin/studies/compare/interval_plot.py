"""Plot of a suite's differences from their baselines with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from d2sm_plugin.studies.bootstrap import Difference
from d2sm_plugin.studies.compare.plots import save_figure
from d2sm_plugin.studies.compare.scores import Column
from d2sm_plugin.studies.compare.tables import set_title, title

_LETTER = 0.08  # inches of a label


def plot_intervals(
    intervals: Mapping[tuple[str, Column], Difference], baseline_of: Callable[[str], str], path: Path
) -> bool:
    """Draw the differences, a row for each variant, a column of panels for each test set, a line for each metric.

    Args:
        intervals: (variant, column) -> difference with its interval.
        baseline_of: gives the row that a variant's differences refer to.
        path: the PNG file.

    Returns:
        Whether there was anything to draw.
    """
    if not intervals:
        return False
    variants = list(dict.fromkeys(variant for variant, _ in intervals))
    sets = list(dict.fromkeys(column.test_set for _, column in intervals))
    metrics = list(dict.fromkeys(column.metric for _, column in intervals))
    baselines = {variant: baseline_of(variant) for variant in variants}
    shared = baselines[variants[0]] if len(set(baselines.values())) == 1 else None
    labels = [name if shared is not None else f"{name} − {baselines[name]}" for name in variants]
    size = (_LETTER * max(map(len, labels)) + 3 * len(sets), 0.6 + len(metrics) * (0.8 + 0.3 * len(variants)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(metrics), len(sets), squeeze=False, sharex="row", sharey=True)
    for (variant, column), difference in intervals.items():
        axes = grid[metrics.index(column.metric)][sets.index(column.test_set)]
        low, high = (difference.value if end is None else end for end in (difference.low, difference.high))
        row = variants.index(variant)
        axes.plot([low, high], [row, row], color=f"C{row % 10}")
        axes.plot([difference.value], [row], "o", color=f"C{row % 10}")
        axes.set_title(set_title(column), fontsize="medium")
        axes.set_xlabel(title(column.metric) + ("" if shared is None else f", less that of {shared}"))
    for axes in grid.flat:
        axes.axvline(0, color="0.6", linewidth=1)
        axes.set_yticks(range(len(variants)), labels)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
    return True
