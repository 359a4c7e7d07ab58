"""The tables of a suite, for people (Markdown) and for programs (CSV)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tabulate import tabulate

from d2sm_plugin.files import write_csv, write_whole
from d2sm_plugin.studies.bootstrap import Difference
from d2sm_plugin.studies.compare.scores import Column, Scores, Summary
from d2sm_plugin.studies.compare.suite import Published

_TITLES = {"psnr": "PSNR [dB]", "ssim": "SSIM", "mIoU": "MIoU [%]", "nrmse": "NRMSE"}
#: Digits behind the point of figures.
DIGITS = {"psnr": 3, "ssim": 4, "nrmse": 4, "mIoU": 2}
_DEFAULT_DIGITS = 2
_SMALL = 1.0
_NOTHING = "-"
Cost = Mapping[str, Mapping[str, float]]
Intervals = Mapping[tuple[str, Column], Difference]
NO_INTERVALS: Intervals = MappingProxyType({})


def write_tables(
    scores: Scores, cost: Cost, folder: Path, intervals: Intervals = NO_INTERVALS, of_groups: str = ""
) -> str:
    """Write ``table.md``, ``table.csv`` (every value) and ``table_mean.csv`` into a folder.

    Args:
        scores: of the suite.
        cost: variant -> ratios to the baseline, ``time`` and ``memory``; empty where not measured.
        folder: the report's.
        intervals: (variant, column) -> difference from the baseline over seeds and scenes, where it is known.
        of_groups: table of groups of images, in Markdown.

    Returns:
        The Markdown.

    Raises:
        DataError: when a file cannot be written.
    """
    text = markdown(scores, cost, intervals, of_groups)
    write_whole(folder / "table.md", text)
    write_csv(folder / "table.csv", ("variant", "seed", "set", "sigma", "metric", "value"), _long(scores))
    header = ("variant", "set", "sigma", "metric", "seeds", "mean", "sd", "rank", "difference", "difference_sd")
    write_csv(folder / "table_mean.csv", (*header, "baseline"), _means(scores))
    return text


def markdown(scores: Scores, cost: Cost, intervals: Intervals = NO_INTERVALS, of_groups: str = "") -> str:
    """Return the tables of means and of differences from the baseline, with what is missing named below."""
    suite = scores.suite
    groups: dict[str, list[str]] = {}
    for variant in suite.variants:
        groups.setdefault(suite.baseline_of(variant), []).append(variant)
    beside = suite.baseline if len(groups) == 1 else "the baseline"
    caption = f"Mean ± sample deviation over seeds; (rank) of the difference from {beside} at equal seeds."
    parts = [f"# {suite.title or suite.name}", caption]
    seeds = {row: _seeds(scores, row) for row in scores.rows()}
    parts.append(_table(scores, "seeds", seeds, lambda row, column: _mean_cell(scores, row, column), cost, True))
    if suite.published is not None:
        parts.append(f"*published*: figures of {suite.published.source}. None of them was measured here.")

    def cell(row: str, column: Column) -> str:
        return _difference_cell(scores, row, column, intervals.get((row, column)))

    for baseline, rows in groups.items():
        pairs = {row: _pairs(scores, row) for row in rows if row != baseline}
        if pairs and scores.values.get(baseline):
            parts.append(f"Difference from {baseline}, of runs with equal seeds: {_meaning(rows, intervals)}.")
            parts.append(_table(scores, "pairs", pairs, cell, {}))
    parts += [of_groups] if of_groups else []
    parts += _remarks(scores, cost)
    return "\n\n".join(parts) + "\n"


def shown(value: float, metric: str, signed: bool = False) -> str:
    """Return a value with the digits that its metric is worth."""
    sign = "+" if signed else ""
    if metric not in DIGITS and 0 < abs(value) < _SMALL:  # LPIPS or divergences, of which two digits would say little
        return f"{value:{sign}#.3g}"
    return f"{value:{sign}.{DIGITS.get(metric, _DEFAULT_DIGITS)}f}" if math.isfinite(value) else _NOTHING


def title(metric: str) -> str:
    """Return the heading of a metric, with its unit."""
    return _TITLES.get(metric, metric)


def set_title(column: Column) -> str:
    """Return the heading of a test set: its noise level, or its name."""
    return column.test_set if column.sigma is None else f"σ = {column.sigma:g}"


def column_titles(columns: Sequence[Column]) -> list[str]:
    """Return the headings of a table's columns; the first of each test set names it."""
    headings = []
    for heading, group in groupby(columns, set_title):
        metrics = [title(column.metric) for column in group]
        headings += [f"{heading} {metrics[0]}", *metrics[1:]]
    return headings


def difference_text(difference: Difference | None, column: Column) -> str:
    """Return a difference with its interval for a table; empty where there is none."""
    if difference is None:
        return ""
    value, ends = shown(difference.value, column.metric, signed=True), (difference.low, difference.high)
    interval = [shown(end, column.metric, signed=True) for end in ends if end is not None and math.isfinite(end)]
    return f"{value} [{', '.join(interval)}]" if len(interval) == len(ends) else value


def _table(
    scores: Scores,
    counted: str,
    counts: Mapping[str, str],
    cell: Callable[[str, Column], str],
    cost: Cost,
    published: bool = False,
) -> str:
    headers = ["", counted, *column_titles(scores.columns)]
    if cost:
        headers += ["time", "memory"]
    beside = _published_cells(scores.suite.published) if published else {}
    headers += beside.pop("", [])
    lines = []
    for row in dict.fromkeys([*counts, *beside]):
        count = counts.get(row, "")
        line = [row, count, *(cell(row, column) for column in scores.columns)]
        if cost:
            costs = cost.get(row, {})
            line += [f"{costs[key]:.2f}×" if key in costs else "" for key in ("time", "memory")]
        lines.append(line + beside.get(row, []))
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def _published_cells(published: Published | None) -> dict[str, list[str]]:
    """Row -> cells, and "" -> headings; figures of a column have as many digits as the longest of them."""
    if published is None:
        return {}
    cells = {"": [f"*published* {name}" for name in published.columns], **{row: [] for row in published.rows}}
    for column in zip(*published.rows.values(), strict=True):
        digits = max((len(f"{value!r}".partition(".")[2]) for value in column if value is not None), default=0)
        for row, value in zip(published.rows, column, strict=True):
            cells[row].append(_NOTHING if value is None else f"{value:.{digits}f}")
    return cells


def _seeds(scores: Scores, row: str) -> str:
    if row not in scores.suite.variants:
        return ""
    done, wanted = len(scores.values.get(row, {})), scores.expected.get(row, 0)
    text = str(done) if done == wanted else f"{done} of {wanted}"
    return f"{text} (failed: {len(scores.failed[row])})" if row in scores.failed else text


def _pairs(scores: Scores, row: str) -> str:
    """Return how many seeds a variant and the baseline share; a range where it depends on the column."""
    differences = [scores.difference(row, column) for column in scores.columns]
    counts = [0 if difference is None else difference.count for difference in differences]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"


def _mean_cell(scores: Scores, row: str, column: Column) -> str:
    summary = scores.summary(row, column)
    if summary is None:
        return ""
    text = _with_deviation(summary, column.metric)
    rank = scores.ranks(column).get(row)
    if rank is None:
        return text
    return f"**{text}** (1)" if rank == 1 else f"{text} ({rank})"


def _meaning(rows: Sequence[str], intervals: Intervals) -> str:
    shown_here = [interval for (row, _), interval in intervals.items() if row in rows]
    if not shown_here:
        return "mean ± sample deviation"
    frames, blocks = (sorted({getattr(interval, name) for interval in shown_here}) for name in ("frames", "blocks"))
    return (
        f"mean [95 % interval over seeds and scenes: {' or '.join(map(str, frames))} frames in "
        f"{' or '.join(map(str, blocks))} blocks]; of one seed it holds for scenes alone"
    )


def _difference_cell(scores: Scores, row: str, column: Column, interval: Difference | None) -> str:
    if interval is not None and interval.low is not None:
        return difference_text(interval, column)
    difference = scores.difference(row, column)
    return "" if difference is None else _with_deviation(difference, column.metric, signed=True)


def _with_deviation(summary: Summary, metric: str, signed: bool = False) -> str:
    text = shown(summary.mean, metric, signed)
    return text if summary.deviation is None else f"{text} ± {shown(summary.deviation, metric)}"


def _remarks(scores: Scores, cost: Cost) -> list[str]:
    remarks = []
    for row, seeds in scores.failed.items():
        remarks.append(f"Failed: {row}{'' if seeds == [None] else ', seed ' + ', '.join(map(str, seeds))}.")
    if cost:
        remarks.append(f"Time and peak memory of a training step, relative to {scores.suite.baseline}: see cost.json.")
    known = [versions for versions in scores.versions if versions is not None]
    if known and len(scores.versions) == 1:
        remarks.append(f"Trained with {known[0]}.")
    elif known:
        remarks.append(f"Versions differ: {'; '.join(_trained_with(scores, version) for version in scores.versions)}.")
    return remarks


def _trained_with(scores: Scores, versions: str | None) -> str:
    runs = [f"{row} {' '.join(f'#{seed}' for seed in seeds)}" for row, seeds in scores.versions[versions].items()]
    return f"{', '.join(runs)} trained with {'versions not recorded' if versions is None else versions}"


def _long(scores: Scores) -> list[list[Any]]:
    return [
        [row, seed, test_set, _sigma_of(scores, test_set), metric, repr(value)]
        for row in scores.rows()
        for seed, sets in sorted(
            scores.values.get(row, {}).items(), key=lambda item: -1 if item[0] is None else item[0]
        )
        for test_set, metrics in sets.items()
        for metric, value in metrics.items()
    ]


def _sigma_of(scores: Scores, test_set: str) -> float | None:
    return next((column.sigma for column in scores.columns if column.test_set == test_set), None)


def _means(scores: Scores) -> list[list[Any]]:
    lines = []
    for column in scores.columns:
        ranks = scores.ranks(column)
        for row in scores.rows():
            summary = scores.summary(row, column)
            if summary is None:
                continue
            paired = row in scores.suite.variants and row != scores.suite.baseline_of(row)
            difference = scores.difference(row, column) if paired else None
            described = [
                row,
                column.test_set,
                column.sigma,
                column.metric,
                summary.count,
                summary.mean,
                summary.deviation,
            ]
            change = [None, None] if difference is None else [difference.mean, difference.deviation]
            baseline = scores.suite.baseline_of(row) if paired else None
            lines.append([*described, ranks.get(row), *change, baseline])
    return lines
