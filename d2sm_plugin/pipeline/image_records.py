"""``by_image.csv`` of a test: what was measured of every image, from which intervals over scenes are computed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_csv

#: Name of the file in the folder of a test.
RECORDS = "by_image.csv"
_PLACE = ("set", "image")
_PARTS = ("intersection", "union")


class ImageRecord(NamedTuple):
    """Measurements of one image.

    Attributes:
        key: of the image.
        values: metric -> value.
        counts: pixels of intersection and of union of every class, (2, C) int64; None where nothing was segmented.
    """

    key: str
    values: Mapping[str, float]
    counts: NDArray[np.int64] | None


def write_records(path: Path, sets: Mapping[str, Sequence[ImageRecord]], classes: Sequence[str]) -> None:
    """Write the records of test sets: a row for each image, a column for each metric, part and class.

    Args:
        path: of the CSV file.
        sets: name of the set -> its records; all of one test, so that all have the same metrics.
        classes: names of the C classes; empty where nothing was segmented.

    Raises:
        DataError: when the file cannot be written.
    """
    metrics = list(dict.fromkeys(metric for records in sets.values() for row in records for metric in row.values))
    header = [*_PLACE, *metrics, *(f"{part}/{name}" for part in _PARTS for name in classes)]
    rows = [
        [name, row.key, *(repr(row.values[m]) if m in row.values else None for m in metrics), *_cells(row.counts)]
        for name, records in sets.items()
        for row in records
    ]
    write_csv(path, header, rows)


def read_records(path: Path) -> dict[str, list[ImageRecord]]:
    """Read the records that :func:`write_records` wrote.

    Returns:
        Name of the set -> its records, in the order of the file.

    Raises:
        DataError: when the file cannot be read or holds something else.
    """
    records: dict[str, list[ImageRecord]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        if tuple(header[:2]) != _PLACE:
            raise ValueError(f"its first line is '{','.join(header)}'")
        counted = [place for place, name in enumerate(header) if name.split("/")[0] in _PARTS and "/" in name]
        metrics = [place for place in range(2, len(header)) if place not in set(counted)]
        for line in lines:
            values = {header[place]: float(line[place]) for place in metrics if line[place]}
            counts = np.array([int(line[place]) for place in counted], np.int64).reshape(2, -1) if counted else None
            records.setdefault(line[0], []).append(ImageRecord(line[1], values, counts))
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{path}: expected a row of measurements for each image ({error}); remove it") from error
    return records


def _cells(counts: NDArray[np.int64] | None) -> list[int]:
    return [] if counts is None else counts.flatten().tolist()
