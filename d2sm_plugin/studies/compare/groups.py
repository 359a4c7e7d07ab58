"""Differences from the baseline for groups of images, such as the drives of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from d2sm_plugin.files import write_csv
from d2sm_plugin.studies.bootstrap import Difference
from d2sm_plugin.studies.compare.intervals import compare_pairs
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.scores import Column
from d2sm_plugin.studies.compare.suite import Suite
from d2sm_plugin.studies.compare.tables import column_titles, difference_text

_HEADER = ("variant", "group", "pattern", "set", "sigma", "metric", "difference", "low", "high", "frames")


def write_groups(suite: Suite, jobs: Sequence[SuiteRun], columns: Sequence[Column], folder: Path) -> str:
    """Write ``groups.csv``, the difference of every variant in each of ``intervals.groups``.

    Args:
        suite: the suite.
        jobs: all of it.
        columns: of the table.
        folder: of the report.

    Returns:
        The table in Markdown, a row for each variant and group; empty without groups or finished pairs of runs.

    Raises:
        DataError: when records cannot be read, or the file cannot be written.
    """
    groups = {name: pattern for name, pattern in suite.intervals.groups.items() if pattern is not None}
    if not groups:
        return ""
    differences: dict[tuple[str, str], dict[Column, Difference]] = {}
    lines: list[list[Any]] = []
    for group, pattern in groups.items():
        for comparison in compare_pairs(suite, jobs, columns, pattern):
            difference, column = comparison.totals.difference(), comparison.column
            differences.setdefault((comparison.variant, group), {})[column] = difference
            place = [comparison.variant, group, pattern, column.test_set, column.sigma, column.metric]
            lines.append([*place, difference.value, difference.low, difference.high, difference.frames])
    write_csv(folder / "groups.csv", _HEADER, lines)
    rows = [
        [variant, group, *_extent(of_column), *(difference_text(of_column.get(column), column) for column in columns)]
        for variant in suite.variants
        for group in groups
        if (of_column := differences.get((variant, group)))
    ]
    parts = []
    if rows:
        headers = ["", "group", "images", *column_titles(columns)]
        parts += ["The same for groups of images:", tabulate(rows, headers, tablefmt="github", disable_numparse=True)]
    empty = [
        f"{name} ({pattern})" for name, pattern in groups.items() if name not in {group for _, group in differences}
    ]
    if empty:
        parts.append(f"No finished pair of runs has images of: {', '.join(empty)}.")
    return "\n\n".join(parts)


def _extent(of_column: dict[Column, Difference]) -> list[str]:
    first = next(iter(of_column.values()))
    return [f"{first.frames} in {first.blocks} blocks"]
