"""The plots of a suite: metrics against training steps, and PSNR against MIoU."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, and no global state
from matplotlib.figure import Figure

from d2sm_plugin.files import reading_again, whole_file
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.scores import Column, Scores
from d2sm_plugin.studies.compare.suite import Suite
from d2sm_plugin.studies.compare.tables import set_title, title

#: metric -> set -> seed -> step -> value
Curves = dict[str, dict[str, dict[int | None, dict[int, float]]]]
_COLOURS = 10  # of matplotlib's cycle; beyond them lines are dashed, markers others
_STYLES = ("-", "--", ":", "-.")
_MARKERS = "os^Dv"


def read_curves(jobs: Sequence[SuiteRun]) -> dict[str, Curves]:
    """Return what the trainings, finished or not, measured on their validation sets, by variant."""
    of_variants: dict[str, Curves] = {}
    for job in jobs:
        file = job.experiment / "metrics.csv"
        if job.train is None or not file.is_file():
            continue
        again = reading_again(file, f"remove {job.experiment}, and the run is made again")
        with again, file.open(newline="", encoding="utf-8") as lines:
            whole = [line for line in lines if line.endswith("\n")]  # a kill may leave half a line
            for row in csv.DictReader(whole):
                if None in row.values():
                    continue
                of_metric = of_variants.setdefault(job.row, {}).setdefault(row["metric"], {})
                curves = of_metric.setdefault(row["dataset"], {})
                curves.setdefault(job.seed, {})[int(row["iter"])] = float(row["value"])
    return of_variants


def plot_convergence(suite: Suite, jobs: Sequence[SuiteRun], metrics: Sequence[str], path: Path) -> bool:
    """Draw validation metrics against steps: a line for each variant, a band from the lowest to the highest seed.

    Args:
        suite: the suite.
        jobs: all of it.
        metrics: one row of the picture each, where the trainings measured it.
        path: the PNG file.

    Returns:
        Whether there was anything to draw.
    """
    curves = read_curves(jobs)
    measured = [m for m in metrics if any(m in of_run for of_run in curves.values())]
    sets = list(dict.fromkeys(name for of_run in curves.values() for m in measured for name in of_run.get(m, {})))
    if not measured or not sets:
        return False
    size = (4.5 * len(sets), 3.2 * len(measured) + 0.3 * (len(curves) // 3 + 1))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(measured), len(sets), squeeze=False, sharex=True)
    for line, metric in zip(grid, measured, strict=True):
        for axes, name in zip(line, sets, strict=True):
            for number, variant in enumerate(suite.variants):
                _draw_variant(axes, variant, number, curves.get(variant, {}).get(metric, {}).get(name, {}))
            axes.set_title(name, fontsize="medium")
            axes.set_ylabel(title(metric))
            axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    _legend(figure, list(suite.variants))
    save_figure(figure, path)
    return True


def _draw_variant(axes: Axes, variant: str, number: int, seeds: dict[int | None, dict[int, float]]) -> None:
    steps = sorted({step for values in seeds.values() for step in values})
    if not steps:
        return
    at_step = [[values[step] for values in seeds.values() if step in values] for step in steps]
    means = [statistics.fmean(values) for values in at_step]
    colour, style = f"C{number % _COLOURS}", _STYLES[number // _COLOURS % len(_STYLES)]
    axes.plot(steps, means, style, color=colour, marker=".", markersize=4, label=variant)
    if len(seeds) > 1:
        axes.fill_between(steps, list(map(min, at_step)), list(map(max, at_step)), color=colour, alpha=0.15, lw=0)


def plot_trade(scores: Scores, path: Path, across: str = "psnr", up: str = "mIoU") -> bool:
    """Draw one metric against another, one point a variant with its deviation over seeds, a panel for each test set.

    Returns:
        Whether there was anything to draw.
    """
    pairs = _pairs(scores.columns, across, up)
    rows = [row for row in scores.rows() if row in scores.suite.variants or row == scores.suite.untrained.start]
    if not pairs or not any(scores.summary(row, column) for row in rows for column in pairs[0]):
        return False
    variants = list(scores.suite.variants)
    figure = Figure(figsize=(4.5 * len(pairs), 3.6 + 0.25 * (len(rows) // 3)), layout="constrained")
    for axes, (x_column, y_column) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for row in rows:
            x, y = scores.summary(row, x_column), scores.summary(row, y_column)
            if x is None or y is None:
                continue
            look: dict[str, Any] = {"fmt": "k+"}
            if row in variants:
                number = variants.index(row)
                marker = _MARKERS[number // _COLOURS % len(_MARKERS)]
                look = {"fmt": marker, "color": f"C{number % _COLOURS}", "alpha": 0.8}
            axes.errorbar(x.mean, y.mean, y.deviation, x.deviation, label=row, capsize=2, **look)
        axes.set_title(set_title(x_column), fontsize="medium")
        axes.set_xlabel(title(across))
        axes.set_ylabel(title(up))
        axes.grid(alpha=0.3)
    _legend(figure, rows)
    save_figure(figure, path)
    return True


def _legend(figure: Figure, order: Sequence[str]) -> None:
    """Name what any panel shows, in this order."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        shown, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, shown, strict=True))
    names = [name for name in order if name in handles]
    shown = [handles[name] for name in names]
    figure.legend(shown, names, loc="outside lower center", ncols=3, fontsize="small")


def _pairs(columns: Sequence[Column], across: str, up: str) -> list[tuple[Column, Column]]:
    by_key = {(column.test_set, column.metric): column for column in columns}
    sets = dict.fromkeys(column.test_set for column in columns)
    return [(by_key[s, across], by_key[s, up]) for s in sets if (s, across) in by_key and (s, up) in by_key]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        DataError: when the file cannot be written.
    """
    with whole_file(path) as file:
        FigureCanvasAgg(figure).print_png(file)
