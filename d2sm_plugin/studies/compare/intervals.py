"""Differences from the baseline with intervals over seeds and scenes, from what was measured of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_csv
from d2sm_plugin.pipeline.image_records import ImageRecord, read_records
from d2sm_plugin.studies.bootstrap import Array, Difference, PairedTotals, blocks_of, mean_value, miou_value
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.references import CLEAN_PREFIX
from d2sm_plugin.studies.compare.scores import Column
from d2sm_plugin.studies.compare.suite import Suite

_MIOU = "mIoU"
Records = Mapping[str, Sequence[ImageRecord]]


class Comparison(NamedTuple):
    """One variant against the baseline in one column.

    Attributes:
        variant: name of the row.
        column: test set and metric.
        totals: of the seeds and frames that both have.
        blocks: first and last frame of each block.
    """

    variant: str
    column: Column
    totals: PairedTotals
    blocks: list[tuple[str, str]]


class Measured(NamedTuple):
    """Measurements of each image.

    Attributes:
        runs: records by row and seed.
        clean: of the reference.
    """

    runs: Mapping[tuple[str, int | None], Records]
    clean: Records

    def images(self) -> set[str]:
        """Return the names of all images."""
        return {row.key for records in self.runs.values() for rows in records.values() for row in rows}

    def only(self, patterns: Sequence[str]) -> Measured:
        """Return the part whose names match one of the patterns."""
        runs = {run: _matching(records, patterns) for run, records in self.runs.items()}
        return Measured(runs, _matching(self.clean, patterns))


def _matching(records: Records, patterns: Sequence[str]) -> Records:
    return {
        name: [row for row in rows if any(fnmatchcase(row.key, pattern) for pattern in patterns)]
        for name, rows in records.items()
    }


def read_measured(jobs: Sequence[SuiteRun]) -> Measured:
    """Read the records of those jobs that are finished and kept some.

    Raises:
        DataError: when they cannot be read.
    """
    read = [(job, read_records(job.records)) for job in jobs if job.finished() and job.records.is_file()]
    clean = next((records for job, records in read if job.kind == "reference"), {})
    return Measured({(job.row, job.seed): records for job, records in read}, clean)


def compare_pairs(suite: Suite, measured: Measured, columns: Sequence[Column]) -> list[Comparison]:
    """Return every variant against the baseline in every column, as far as both have records of their images.

    Args:
        suite: the suite.
        measured: of its images.
        columns: of the table; IoU of single classes has none.

    Raises:
        DataError: when runs of one test differ in their frames.
    """
    records = measured.runs
    comparisons: list[Comparison] = []
    for variant in suite.variants:
        baseline = suite.baseline_of(variant)
        seeds = [seed for row, seed in records if row == variant and (baseline, seed) in records]
        if variant == baseline or not seeds:
            continue
        runs, bases = ([records[row, seed] for seed in seeds] for row in (variant, baseline))
        compared = (_compare(suite, variant, column, runs, bases, measured.clean) for column in columns)
        comparisons += filter(None, compared)
    return comparisons


def _compare(
    suite: Suite, variant: str, column: Column, runs: Sequence[Records], bases: Sequence[Records], clean: Records
) -> Comparison | None:
    sets = [records.get(column.test_set, ()) for records in (*runs, *bases)]
    keys = [[row.key for row in rows] for rows in sets]
    if any(other != keys[0] for other in keys):
        raise DataError(
            f"'{variant}' and '{suite.baseline_of(variant)}': their runs were tested on other frames of "
            f"'{column.test_set}'; remove the files test-* of their runs, and they are tested again"
        )
    totals = [of_run for rows in sets if (of_run := _totals(rows, column.metric)) is not None]
    if not keys[0] or len(totals) < len(sets):
        return None
    rows = clean.get(f"{CLEAN_PREFIX}{column.test_set}", ()) if column.metric == _MIOU else ()
    places = blocks_of(keys[0], suite.intervals.block)
    paired = PairedTotals(
        np.stack(totals[: len(runs)]),
        np.stack(totals[len(runs) :]),
        places,
        miou_value if column.metric == _MIOU else mean_value,
        suite.intervals.resamples,
        suite.intervals.seed,
        _totals(rows, _MIOU) if [row.key for row in rows] == keys[0] else None,
    )
    return Comparison(variant, column, paired, [(keys[0][part[0]], keys[0][part[-1]]) for part in places])


def _totals(rows: Sequence[ImageRecord], metric: str) -> Array | None:
    """Totals that the metric of a set is made of, (F, K); None where it was not measured of each image."""
    if metric == _MIOU:
        counts = [row.counts for row in rows if row.counts is not None]
        return (
            np.stack(counts).reshape(len(rows), -1).astype(np.float64) if counts and len(counts) == len(rows) else None
        )
    values = [row.values.get(metric, np.nan) for row in rows]
    return np.stack([values, np.ones(len(values))], -1) if values and np.isfinite(values).all() else None


def write_intervals(comparisons: Sequence[Comparison], folder: Path) -> dict[tuple[str, Column], Difference]:
    """Write ``intervals.csv`` (differences and shares of the gap) and ``blocks.csv`` (the difference in each block).

    Returns:
        (variant, column) -> its difference.

    Raises:
        DataError: when a file cannot be written.
    """
    differences = {
        (comparison.variant, comparison.column): comparison.totals.difference() for comparison in comparisons
    }
    lines, blocks = [], []
    for comparison in comparisons:
        place = [comparison.variant, comparison.column.test_set, comparison.column.sigma, comparison.column.metric]
        share: tuple[Any, ...] = (None,) * 3 if comparison.totals.clean is None else comparison.totals.gap_share()
        lines.append([*place, *differences[comparison.variant, comparison.column], *share])
        blocks += [
            [*place, *ends, float(value)]
            for ends, value in zip(comparison.blocks, comparison.totals.by_block(), strict=True)
        ]
    place_header = ("variant", "set", "sigma", "metric")
    header = (*place_header, *(_CSV.get(name, name) for name in Difference._fields), "gap_share", "gap_low", "gap_high")
    write_csv(folder / "intervals.csv", header, lines)
    write_csv(folder / "blocks.csv", (*place_header, "first", "last", "difference"), blocks)
    return differences


_CSV = {"value": "difference", "above": "blocks_above"}
