"""Tables of landmarks: CSV with one face a line, ``image,x0,y0,x1,y1,...``, and a column ``split`` if wanted."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import regular, write_whole

NAME_COLUMN, SPLIT_COLUMN = "image", "split"


@dataclass(frozen=True)
class LandmarkRow:
    """The landmarks of one face.

    Attributes:
        points: float32 (P, 2), x to the right and y down, in pixels.
        split: of the data set, where the table says it.
    """

    points: NDArray[np.float32]
    split: str | None = None


def read_landmark_table(path: str | Path) -> dict[str, LandmarkRow]:
    """Return the rows of a table by the image's name as it stands there.

    Raises:
        DataError: when the file cannot be read, a column is missing, a value is no number, or an image comes twice; the
            message names file and line.
    """
    try:
        with open(regular(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            columns = _point_columns(header, path)
            places = {column: header.index(column) for column in (NAME_COLUMN, SPLIT_COLUMN) if column in header}
            rows: dict[str, LandmarkRow] = {}
            for values in reader:
                where = f"{path}: line {reader.line_num}"
                if len(values) != len(header):
                    raise DataError(f"{where}: {len(values)} values, but the header names {len(header)} columns")
                name = values[places[NAME_COLUMN]]
                if name in rows:
                    raise DataError(f"{where}: '{name}' is there twice; remove one of the two lines")
                split = values[places[SPLIT_COLUMN]] if SPLIT_COLUMN in places else None
                rows[name] = LandmarkRow(points_of([values[column] for column in columns], where), split)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table of landmarks ({error})") from error
    if not rows:
        raise DataError(f"{path}: the table holds no face")
    return rows


def write_landmark_table(path: str | Path, rows: Mapping[str, NDArray[np.floating]], overwrite: bool = False) -> bool:
    """Write points (P, 2) by image name, whole or not at all, in the order of the names.

    Returns:
        False when the same table was there already.

    Raises:
        DataError: when another table is there (and ``overwrite`` is not set) or the file cannot be written.
    """
    path = Path(path)
    count = len(next(iter(rows.values())))
    lines = [",".join([NAME_COLUMN, *(f"{axis}{number}" for number in range(count) for axis in "xy")])]
    lines += [",".join([name, *(f"{value:.3f}" for value in rows[name].flatten())]) for name in sorted(rows)]
    text = "\n".join(lines) + "\n"
    try:
        if path.exists() and not overwrite:
            if path.read_text(encoding="utf-8") == text:
                return False
            raise DataError(f"{path}: another table is there already; say --overwrite to replace it")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    write_whole(path, text)
    return True


def points_of(values: list[str], where: str) -> NDArray[np.float32]:
    """Return x0, y0, x1, y1, ... as points (P, 2).

    Raises:
        DataError: for a value that is no finite number, or an odd number of them.
    """
    try:
        numbers = np.array([float(value) for value in values], np.float32)
    except ValueError as error:
        raise DataError(f"{where}: coordinates must be numbers ({error})") from None
    if numbers.size == 0 or numbers.size % 2 or not np.isfinite(numbers).all():
        raise DataError(f"{where}: expected pairs of finite x and y, got {numbers.size} values: {' '.join(values[:6])}")
    return numbers.reshape(-1, 2)


def _point_columns(header: list[str], path: str | Path) -> list[int]:
    """Places of the columns x0, y0, x1, y1, ... in a header."""
    count = sum(column.startswith("x") and column[1:].isdecimal() for column in header)
    wanted = [f"{axis}{number}" for number in range(count) for axis in "xy"]
    missing = [column for column in [NAME_COLUMN, *wanted] if column not in header]
    if missing or not wanted:
        raise DataError(
            f"{path}: expected the columns {NAME_COLUMN},x0,y0,x1,y1,... in the first line; missing: "
            f"{', '.join(missing or ['x0', 'y0'])}"
        )
    return [header.index(column) for column in wanted]
