"""Subcommand ``dnd``: the Darmstadt Noise Dataset, whose clean images are not public."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.prepare.arguments import add_source, source_folder
from d2sm_plugin.data.prepare.jobs import RecordJob, Settings, identity_of, write_lmdb
from d2sm_plugin.errors import DataError
from d2sm_plugin.extras import import_extra

_IMAGES, _INFO, _VARIABLE = "images_srgb", "info.mat", "InoisySRGB"
_MOST_PIXELS = 1 << 26  # of an image; the published ones have up to 37 million
#: What h5py raises on damaged files and on those of another kind.
_ERRORS = (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError)
Box = tuple[int, int, int, int]


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "dnd",
        parents=[common],
        help="DND, sRGB -> OUT/test_lq.lmdb",
        description="Cut the 20 bounding boxes (512 by 512) out of each of DND's 50 noisy images in sRGB, for "
        "SingleImageDataset. Keys are IMAGE_BOX, counted from 1. The benchmark keeps its clean images to itself. "
        "Images are floats there and become 8 bits a channel here.",
    )
    add_source(parser, f"folder with {_INFO} and {_IMAGES}/0001.mat, 0002.mat, ...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDB."""
    settings, source = Settings.from_arguments(arguments), source_folder(arguments)
    info, level = source / _INFO, settings.compress_level
    jobs = []
    for number, boxes in enumerate(_read_boxes(info), start=1):
        file = source / _IMAGES / f"{number:04d}.mat"
        key = f"{number:04d}"
        if not file.is_file():
            raise DataError(f"{file}: this image is missing; {info} has its boxes")
        jobs.append(
            RecordJob(identity_of(key, f"boxes level={level}", [file, info]), partial(_cut, key, file, boxes, level))
        )
    write_lmdb("test_lq.lmdb", jobs, settings)


def _cut(key: str, file: Path, boxes: list[Box], level: int) -> list[Record]:
    """Return the records of an image's boxes."""
    image = _read_image(file)
    records = []
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        if not 0 <= top < bottom <= image.shape[0] or not 0 <= left < right <= image.shape[1]:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise DataError(
                f"{file}: box {number} (rows {top} to {bottom}, columns {left} to {right}) leads out of its {size}"
            )
        pixels = np.ascontiguousarray(image[top:bottom, left:right])
        records.append(Record(f"{key}_{number:02d}", encode_png(pixels, level), pixels.shape, ".png", level))
    return records


def _read_image(file: Path) -> NDArray[np.uint8]:
    """Return an image uint8 (H, W, 3); MATLAB's axes stand in reverse order in its files of version 7.3."""
    h5py = import_extra("h5py", "d2sm prepare dnd")
    try:
        with h5py.File(file, "r") as content:
            array = content[_VARIABLE]
            if array.ndim != 3 or array.shape[0] != 3 or array.dtype.kind != "f" or array.size > 3 * _MOST_PIXELS:
                raise ValueError(f"{_VARIABLE} is {array.dtype} {array.shape}")
            stored = np.asarray(array, np.float32)
    except _ERRORS as error:
        raise _unreadable(file, error, f"{_VARIABLE}, floats (3, width, height)") from error
    if not np.isfinite(stored).all():
        raise DataError(f"{file}: {_VARIABLE} holds inf or NaN; download it again")
    return np.round(np.clip(stored.T, 0, 1) * 255).astype(np.uint8)


def _read_boxes(file: Path) -> list[list[Box]]:
    """Return the boxes of every image: first row and column, and those after the last, from 0."""
    h5py = import_extra("h5py", "d2sm prepare dnd")
    try:
        with h5py.File(file, "r") as content:
            references = np.asarray(content["info"]["boundingboxes"]).ravel()
            corners = [np.asarray(content[reference], np.float64).T for reference in references]
    except _ERRORS as error:
        raise _unreadable(file, error, "info.boundingboxes") from error
    if not corners or any(of_image.ndim != 2 or of_image.shape[1] != 4 for of_image in corners):
        raise DataError(f"{file}: info.boundingboxes: expected four numbers for each box of each image")
    return [[(int(t) - 1, int(x) - 1, int(b), int(r)) for t, x, b, r in of_image] for of_image in corners]


def _unreadable(file: Path, error: Exception, expected: str) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{file}: cannot be read ({reason}); expected a MATLAB file of version 7.3 with {expected}")
