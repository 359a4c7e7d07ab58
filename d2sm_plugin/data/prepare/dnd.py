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
_MOST_PIXELS = 4096**2  # of a box; the published ones have 512 by 512
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
    crops = _read_crops(file, boxes)
    return [
        Record(f"{key}_{number:02d}", encode_png(crop, level), crop.shape, ".png", level)
        for number, crop in enumerate(crops, start=1)
    ]


def _read_crops(file: Path, boxes: list[Box]) -> list[NDArray[np.uint8]]:
    """Return the boxes of an image, uint8 (h, w, 3); files of version 7.3 have MATLAB's axes in reverse order."""
    h5py = import_extra("h5py", "d2sm prepare dnd")
    try:
        with h5py.File(file, "r") as content:
            image = content[_VARIABLE]
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype.kind != "f":
                raise ValueError(f"{_VARIABLE} is {image.dtype} {image.shape}")
            for number, box in enumerate(boxes, start=1):
                _check_box(box, f"{file}: box {number}", width=image.shape[1], height=image.shape[2])
            crops = [np.asarray(image[:, left:right, top:bottom]).T for top, left, bottom, right in boxes]
    except DataError:
        raise
    except _ERRORS as error:
        raise _unreadable(file, error, f"{_VARIABLE}, floats (3, width, height)") from error
    if not all(np.isfinite(crop).all() for crop in crops):
        raise DataError(f"{file}: {_VARIABLE} holds inf or NaN; download it again")
    return [np.ascontiguousarray(np.round(np.clip(crop, 0, 1) * 255), np.uint8) for crop in crops]


def _check_box(box: Box, where: str, width: int, height: int) -> None:
    top, left, bottom, right = box
    inside = 0 <= top < bottom <= height and 0 <= left < right <= width
    if not inside or (bottom - top) * (right - left) > _MOST_PIXELS:
        place = f"rows {top} to {bottom}, columns {left} to {right}"
        raise DataError(f"{where} ({place}) leads out of the {width}x{height} pixels, or is larger than 4096x4096")


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
