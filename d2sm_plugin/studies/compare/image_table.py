"""``images.csv`` of a suite: what was measured of every image, averaged over seeds, beside the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from d2sm_plugin.files import write_csv
from d2sm_plugin.pipeline.image_records import ImageRecord, read_records
from d2sm_plugin.studies.bootstrap import miou_value
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.scores import Column
from d2sm_plugin.studies.compare.suite import Suite

#: Name of the file in the folder of a suite's report.
IMAGES = "images.csv"
HEADER = ("variant", "set", "image", "metric", "better", "seeds", "mean", "difference")


def write_images(suite: Suite, jobs: Sequence[SuiteRun], columns: Sequence[Column], folder: Path) -> None:
    """Write a row for each variant, image and metric; the difference is from the baseline, over the seeds of both.

    Args:
        suite: the suite.
        jobs: all of it; those that are not finished, or kept no records, are left out.
        columns: of the table.
        folder: of the report.

    Raises:
        DataError: when records cannot be read, or the file cannot be written.
    """
    values: dict[tuple[str, Column], dict[str, dict[int | None, float]]] = {}
    for job in jobs:
        if job.row in suite.variants and job.finished() and job.records.is_file():
            records = read_records(job.records)
            for column in columns:
                of_images = values.setdefault((job.row, column), {})
                for record in records.get(column.test_set, ()):
                    value = image_value(record, column.metric)
                    if value is not None:
                        of_images.setdefault(record.key, {})[job.seed] = value
    rows = []
    for (row, column), of_images in values.items():
        baseline = suite.baseline_of(row)
        base = values.get((baseline, column), {})
        for key, by_seed in of_images.items():
            mean, difference = statistics.fmean(by_seed.values()), _difference(by_seed, base.get(key, {}))
            shown = difference if row != baseline else None
            better = "lower" if column.lower else "higher"
            rows.append([row, column.test_set, key, column.metric, better, len(by_seed), mean, shown])
    write_csv(folder / IMAGES, HEADER, rows)


def image_value(record: ImageRecord, metric: str) -> float | None:
    """Return a metric of one image, ``mIoU`` over the classes that are in it; None where it was not measured."""
    if metric == "mIoU":
        counts = record.counts
        if counts is None or not (counts[1] > 0).any():
            return None
        return float(miou_value(counts.reshape(-1).astype(np.float64)))
    return record.values.get(metric)


def _difference(values: Mapping[int | None, float], base: Mapping[int | None, float]) -> float | None:
    pairs = [value - base[seed] for seed, value in values.items() if seed in base]
    return statistics.fmean(pairs) if pairs else None
