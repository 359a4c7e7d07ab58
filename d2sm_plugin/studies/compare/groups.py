"""Differences from the baseline for groups of images, such as the drives of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tabulate import tabulate

from d2sm_plugin.files import write_csv
from d2sm_plugin.studies.bootstrap import Difference
from d2sm_plugin.studies.compare.intervals import Measured, compare_pairs
from d2sm_plugin.studies.compare.scores import Column
from d2sm_plugin.studies.compare.suite import Suite
from d2sm_plugin.studies.compare.tables import column_titles, difference_text

_HEADER = ("variant", "baseline", "group", "pattern", "set", "sigma", "metric", "difference", "low", "high")
_FILE = "groups.csv"


def write_groups(suite: Suite, measured: Measured, columns: Sequence[Column], folder: Path) -> str:
    """Write ``groups.csv``, the difference of every variant in each of ``intervals.groups``.

    Args:
        suite: the suite.
        measured: of its images.
        columns: of the table.
        folder: of the report.

    Returns:
        The table in Markdown, a row for each variant and group, and what it lacks; empty without groups or records.

    Raises:
        DataError: when the file cannot be written.
    """
    groups = {
        name: [patterns] if isinstance(patterns, str) else patterns
        for name, patterns in suite.intervals.groups.items()
        if patterns is not None
    }
    differences: dict[tuple[str, str], dict[Column, Difference]] = {}
    lines: list[list[Any]] = []
    for group, patterns in groups.items():
        for comparison in compare_pairs(suite, measured.only(patterns), columns):
            difference, column = comparison.totals.difference(), comparison.column
            differences.setdefault((comparison.variant, group), {})[column] = difference
            place = [comparison.variant, suite.baseline_of(comparison.variant), group, " | ".join(patterns)]
            extent = [difference.seeds, difference.frames, difference.blocks]
            lines.append([*place, column.test_set, column.sigma, column.metric, *difference[:3], *extent])
    if not lines:
        (folder / _FILE).unlink(missing_ok=True)  # of a report with other groups
    else:
        write_csv(folder / _FILE, (*_HEADER, "seeds", "frames", "blocks"), lines)
    parts = [_table(suite, list(groups), differences, columns)] if differences else []
    return "\n\n".join([*parts, *_lacking(groups, measured.images(), {group for _, group in differences})])


def _table(
    suite: Suite,
    groups: Sequence[str],
    differences: Mapping[tuple[str, str], Mapping[Column, Difference]],
    columns: Sequence[Column],
) -> str:
    rows = [
        [variant, group, *_extent(of_column), *(difference_text(of_column.get(column), column) for column in columns)]
        for variant in suite.variants
        for group in groups
        if (of_column := differences.get((variant, group)))
    ]
    headers = ["", "group", "pairs", "images", "blocks", *column_titles(columns)]
    caption = "The same for groups of images; with one block the interval holds for seeds alone:"
    return f"{caption}\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}"


def _lacking(groups: Mapping[str, Sequence[str]], images: Collection[str], compared: Collection[str]) -> list[str]:
    """Return sentences about patterns that match no image, and groups that have images and no row in the table."""
    if not images:
        return []
    unmatched = {
        group: [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in images)]
        for group, patterns in groups.items()
    }
    idle = [f"`{pattern}` ({group})" for group, patterns in unmatched.items() for pattern in patterns]
    rowless = [group for group in groups if group not in compared and len(unmatched[group]) < len(groups[group])]
    sentences = [f"No image that was tested has a name like {', '.join(idle)}."] if idle else []
    if compared and rowless:
        sentences.append(f"Without a figure of each of their images: {', '.join(rowless)}.")
    return sentences


def _extent(of_column: Mapping[Column, Difference]) -> list[str]:
    """Numbers of pairs of runs, images and blocks; several where test sets differ in them."""
    return [
        " or ".join(dict.fromkeys(str(getattr(difference, name)) for difference in of_column.values()))
        for name in ("seeds", "frames", "blocks")
    ]
