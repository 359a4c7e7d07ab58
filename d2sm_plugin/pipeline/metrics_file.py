"""``metrics.csv`` of a run: one row for each value; all rows of a validation appear together or not at all."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import regular, write_csv

HEADER = ("iter", "dataset", "images", "metric", "value")
#: Name of the set -> (number of images, metric -> value).
Results = Mapping[str, tuple[int, Mapping[str, float]]]


class MetricRow(NamedTuple):
    """One value: of which step, set, number of images and metric."""

    step: int
    dataset: str
    images: int
    metric: str
    value: float


class MetricsFile:
    """The rows of ``metrics.csv``.

    Args:
        path: of the file, which may not exist yet.

    Raises:
        DataError: when the file is there and holds something else, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[MetricRow] = []
        if not path.exists():
            return
        try:
            with regular(path).open(newline="", encoding="utf-8") as file:
                header, *lines = list(csv.reader(file)) or [list(HEADER)]
            if tuple(header) != HEADER:
                raise ValueError(f"its first line is '{','.join(header)}'")
            # A process that was killed while it appended may have left part of a line.
            complete = [line for line in lines if len(line) == len(HEADER)]
            self.rows = [MetricRow(int(a), b, int(c), d, float(e)) for a, b, c, d, e in complete]
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path}: expected lines {','.join(HEADER)} ({error}); mend or remove it") from error

    def has(self, step: int) -> bool:
        """Tell whether the results of a validation at that step are there."""
        return any(row.step == step for row in self.rows)

    def add(self, step: int, results: Results) -> None:
        """Write the results of a validation; those of an earlier one of these sets at that step go.

        Raises:
            DataError: when the file cannot be written; it stays as it was.
        """
        new = [
            MetricRow(step, dataset, images, metric, value)
            for dataset, (images, metrics) in results.items()
            for metric, value in metrics.items()
        ]
        self._write([row for row in self.rows if row.step != step or row.dataset not in results] + new)

    def forget_after(self, step: int) -> bool:
        """Drop rows of later steps, which a continued run will write again; returns whether there were any."""
        kept = [row for row in self.rows if row.step <= step]
        if len(kept) == len(self.rows):
            return False
        self._write(kept)
        return True

    def _write(self, rows: list[MetricRow]) -> None:
        write_csv(self.path, HEADER, [(*row[:-1], repr(row.value)) for row in rows])
        self.rows = rows
