"""From image and label files to records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.data.decoding import decode_label, decode_rgb, encode_png
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.picture_head import jpeg_end, open_picture, picture_size, read_picture_bytes
from d2sm_plugin.data.prepare.jobs import RecordJob, identity_of
from d2sm_plugin.errors import DataError

IGNORE_INDEX = 255
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR = 25  # where a PNG file says its colour type
_PNG_WITHOUT_ALPHA = (0, 2, 3)


@dataclass(frozen=True)
class Windows:
    """Cutting large images into overlapping windows, so that a training crop need not decode the whole of them.

    Windows start every ``step`` pixels; a last one is aligned with the border, so that every pixel is in one.

    Attributes:
        size: side of a window, in pixels.
        step: distance between neighbouring windows.
    """

    size: int
    step: int

    def cut(self, pixels: NDArray[Any], source: str) -> list[NDArray[Any]]:
        """Return the windows of an image, row by row.

        Raises:
            DataError: when the image is smaller than a window.
        """
        height, width = pixels.shape[:2]
        if min(height, width) < self.size:
            raise DataError(
                f"{source}: the image is {width}x{height} (width x height), smaller than a window of {self.size}; "
                f"lower --crop-size or remove the image"
            )
        return [
            pixels[top : top + self.size, left : left + self.size]
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        starts = list(range(0, length - self.size + 1, self.step))
        if starts[-1] + self.size < length:
            starts.append(length - self.size)
        return starts


def image_job(key: str, file: str | Path, level: int, windows: Windows | None = None) -> RecordJob:
    """Return the job that stores an image file.

    A PNG or JPEG file that is stored whole keeps its bytes, without the films and previews that phones append;
    anything else, and a file that asks to be turned, becomes a PNG of 8 bits a channel.
    """

    def make() -> list[Record]:
        data = read_picture_bytes(file)
        pixels = decode_rgb(data, str(file))
        kept = None if windows is not None else _bytes_to_keep(data, str(file))
        if kept is not None:
            suffix = ".png" if kept.startswith(_PNG_START) else ".jpg"
            return [Record(key, kept, pixels.shape, suffix)]
        return _encode(key, pixels, level, windows, str(file))

    return RecordJob(identity_of(key, f"image level={level} {windows}", [file]), make)


def label_job(
    key: str, file: str | Path, image: str | Path, table: NDArray[np.int16], level: int, windows: Windows | None = None
) -> RecordJob:
    """Return the job that stores a label map as train ids.

    Args:
        key: of the record, the same as the image's.
        file: label map of one channel.
        image: the image it belongs to; both must have the same size.
        table: (256,) train id of every value in the file; -1 for values it must not hold.
        level: PNG compression level.
        windows: cuts it as the image was cut.
    """

    def make() -> list[Record]:
        label = decode_label(read_picture_bytes(file), str(file))
        height, width = picture_size(image)
        if label.shape != (height, width):
            raise DataError(
                f"{file}: the label map is {label.shape[1]}x{label.shape[0]} (width x height), its image {image} "
                f"{width}x{height}; they must be equal"
            )
        return _encode(key, translate(label, table, str(file)), level, windows, str(file))

    how = f"label level={level} {windows} {table.tobytes().hex()}"
    return RecordJob(identity_of(key, how, [file, image]), make)


def label_table(train_ids: dict[int, int], known: range) -> NDArray[np.int16]:
    """Return the table for :func:`label_job`.

    Args:
        train_ids: train id of each value that has one.
        known: further values that may occur; they become 255 (ignore), as does 255 itself.
    """
    table = np.full(256, -1, np.int16)
    table[[*known, IGNORE_INDEX]] = IGNORE_INDEX
    for value, train_id in train_ids.items():
        table[value] = train_id
    return table


def translate(label: NDArray[np.uint8], table: NDArray[np.int16], source: str) -> NDArray[np.uint8]:
    """Return ``table[label]``.

    Raises:
        DataError: naming the source and the first value that the table does not know.
    """
    translated = table[label]
    if translated.min() < 0:
        value = int(label[translated < 0][0])
        allowed = ", ".join(map(str, np.flatnonzero(table >= 0)))
        raise DataError(f"{source}: label value {value} is outside the classes; values may be {allowed}")
    return translated.astype(np.uint8)


def pair_job_files(
    images: dict[str, Path], labels: dict[str, Path], expected: Callable[[str], Path]
) -> list[tuple[str, Path, Path]]:
    """Return (key, image, label) of every key.

    Args:
        images: file of every image, by key.
        labels: file of every label map, by key.
        expected: where the label map of a key should be, for the message.

    Raises:
        DataError: naming the label file that an image lacks, or the image that a label file lacks.
    """
    for key, image in sorted(images.items()):
        if key not in labels:
            raise DataError(f"{expected(key)}: this label map is missing; the image {image} needs it")
    for key, label in sorted(labels.items()):
        if key not in images:
            raise DataError(f"{label}: the image of this label map is missing; add it or remove the label map")
    return [(key, images[key], labels[key]) for key in sorted(images)]


def _encode(key: str, pixels: NDArray[Any], level: int, windows: Windows | None, source: str) -> list[Record]:
    if windows is None:
        return [_png_record(key, pixels, level)]
    cut = windows.cut(pixels, source)
    return [_png_record(f"{key}_s{number:03d}", window, level) for number, window in enumerate(cut, start=1)]


def _png_record(key: str, pixels: NDArray[Any], level: int) -> Record:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return Record(key, encode_png(pixels, level), (*pixels.shape[:2], channels), ".png", level)


def _bytes_to_keep(data: bytes, source: str) -> bytes | None:
    """The picture in a file, if readers of every kind see it as we do; else None."""
    with open_picture(data, source) as (_, head):
        if head.orientation != 1 or head.mode == "CMYK":
            return None
        if head.type == "JPEG":
            return data[: jpeg_end(data)]
        if head.type == "PNG" and head.bits <= 8 and data[_PNG_COLOUR] in _PNG_WITHOUT_ALPHA:
            return data
    return None
