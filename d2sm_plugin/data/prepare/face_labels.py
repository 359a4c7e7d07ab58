"""Labels of faces as their publishers give them: landmarks, boxes and splits."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import DataError
from d2sm_plugin.faces.landmark_table import points_of, read_landmark_table
from d2sm_plugin.files import regular

Box = tuple[float, float, float, float]
_CELEBA_SPLITS = {"0": "train", "1": "val", "2": "test"}


@dataclass(frozen=True)
class FaceLabel:
    """Labels of one face.

    Attributes:
        points: float32 (P, 2) in pixels of the photograph.
        box: left, top, right and bottom edge in pixels, the last two outside; None where there is none.
        split: name of the split, None where the labels do not say.
    """

    points: NDArray[np.float32]
    box: Box | None = None
    split: str | None = None


def read_labels(path: str | Path) -> dict[str, FaceLabel]:
    """Read landmarks by image name, in whatever form they are.

    Args:
        path: one of

            * ``*.csv``: ``image,x0,y0,x1,y1,...``, with a column ``split`` if wanted; any number of points;
            * ``*.txt``: CelebA's ``list_landmarks_celeba.txt`` or ``list_landmarks_align_celeba.txt``;
            * ``*.pkl``: DICNet's lists (68 points and a box an image), of which one file is one split;
            * a folder with one iBUG ``.pts`` file beside each image (its points count from 1; ours from 0).

    Raises:
        DataError: when nothing can be read from it; the message names file and line or record.
    """
    path = Path(path)
    if path.is_dir():
        return _read_pts_folder(path)
    readers = {".csv": _read_csv, ".txt": _read_celeba, ".pkl": _read_dicnet}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected a file {', '.join(readers)} or a folder of .pts files")
    if not path.is_file():
        raise DataError(f"{path}: no such file; it should hold the landmarks")
    return readers[path.suffix](path)


def add_boxes(labels: Mapping[str, FaceLabel], path: str | Path) -> dict[str, FaceLabel]:
    """Return the labels with the boxes of CelebA's ``list_bbox_celeba.txt`` (left, top, width and height).

    Raises:
        DataError: when the file cannot be read or lacks an image.
    """
    boxes = {name: _numbers(values, 4, where) for name, values, where in _celeba_lines(path)}
    missing = next((name for name in labels if name not in boxes), None)
    if missing is not None:
        raise DataError(f"{path}: it has no box of '{missing}'; give the box file of the same images")
    corners = {name: (x, y, x + width, y + height) for name, (x, y, width, height) in boxes.items()}
    return {name: replace(label, box=corners[name]) for name, label in labels.items()}


def add_splits(labels: Mapping[str, FaceLabel], path: str | Path) -> dict[str, FaceLabel]:
    """Return the labels with the splits of CelebA's ``list_eval_partition.txt`` (0 train, 1 val, 2 test).

    Names of splits may stand in place of the numbers. Images that the file does not name are left out.

    Raises:
        DataError: when the file cannot be read, or names none of the images.
    """
    splits = {}
    for name, values, where in _text_lines(path):
        if len(values) != 1:
            raise DataError(f"{where}: expected an image and its split, as in list_eval_partition.txt")
        splits[name] = _CELEBA_SPLITS.get(values[0], values[0])
    chosen = {name: replace(label, split=splits[name]) for name, label in labels.items() if name in splits}
    if not chosen:
        raise DataError(f"{path}: it names none of the {len(labels)} images that have landmarks")
    return chosen


def _read_csv(path: Path) -> dict[str, FaceLabel]:
    return {name: FaceLabel(row.points, split=row.split) for name, row in read_landmark_table(path).items()}


def _read_celeba(path: Path) -> dict[str, FaceLabel]:
    labels = {name: FaceLabel(points_of(values, where)) for name, values, where in _celeba_lines(path)}
    _check_counts(labels, path)
    return labels


def _read_dicnet(path: Path) -> dict[str, FaceLabel]:
    with _reading(path), open(regular(path), "rb") as file:
        try:
            loaded = _PlainUnpickler(file).load()
        except Exception as error:  # a damaged pickle can raise anything
            raise DataError(f"{path}: not one of DICNet's lists ({type(error).__name__}: {error})") from error
    if not isinstance(loaded, dict) or not loaded:
        raise DataError(f"{path}: not one of DICNet's lists; it holds {type(loaded).__name__}")
    labels = {}
    for name, entry in loaded.items():
        try:
            points = np.asarray(entry["landmark"], np.float32)
            box = tuple(float(value) for value in entry["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: '{name}' has no landmarks and box ({error})") from error
        if points.ndim != 2 or points.shape[1] != 2 or len(box) != 4:
            raise DataError(f"{path}: '{name}': expected (P, 2) landmarks and a box of 4 numbers, got {points.shape}")
        labels[str(name)] = FaceLabel(points, box)
    _check_counts(labels, path)
    return labels


def _read_pts_folder(folder: Path) -> dict[str, FaceLabel]:
    labels = {}
    for file in sorted(folder.rglob("*.pts")):
        lines = [line.split() for _, line in _lines(file)]
        try:
            first, last = lines.index(["{"]) + 1, lines.index(["}"])
        except ValueError:
            raise DataError(f"{file}: expected the points between braces, as in iBUG's files") from None
        values = [value for line in lines[first:last] for value in line]
        name = os.path.relpath(file, folder).replace(os.sep, "/").removesuffix(".pts")
        labels[name] = FaceLabel(points_of(values, str(file)) - 1)
    if not labels:
        raise DataError(f"{folder}: there is no .pts file in it")
    _check_counts(labels, folder)
    return labels


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of numbers, strings, lists, dicts and NumPy arrays of them, which refuses everything else."""

    _allowed = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
            *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it holds a '{module}.{name}', which plain lists of landmarks do not")
        return super().find_class(module, name)


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn a file that cannot be read into a message."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    with _reading(path), open(regular(path), encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _text_lines(path: str | Path) -> Iterator[tuple[str, list[str], str]]:
    """Image, the values behind it, and the place for messages, of each line."""
    for number, line in _lines(path):
        name, *values = line.split()
        yield name, values, f"{path}: line {number}"


def _celeba_lines(path: str | Path) -> Iterator[tuple[str, list[str], str]]:
    """The lines of one of CelebA's lists below its two lines of heading (a count, the names of the columns)."""
    lines = _text_lines(path)
    count, rest, _ = next(lines, ("", [], ""))
    if not count.isdecimal() or rest:
        raise DataError(f"{path}: expected one of CelebA's lists, which begin with the number of images")
    next(lines, None)
    yield from lines


def _numbers(values: list[str], count: int, where: str) -> tuple[float, ...]:
    numbers = points_of(values, where).flatten().tolist()
    if len(numbers) != count:
        raise DataError(f"{where}: expected {count} numbers, got {len(numbers)}")
    return tuple(numbers)


def _check_counts(labels: Mapping[str, FaceLabel], path: str | Path) -> None:
    counts = {len(label.points): name for name, label in labels.items()}
    if len(counts) != 1:
        listed = ", ".join(f"{count} ('{name}')" for count, name in counts.items()) or "none"
        raise DataError(f"{path}: every face must have the same number of landmarks; found {listed}")
