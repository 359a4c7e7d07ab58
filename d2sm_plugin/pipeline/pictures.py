"""Pictures of results: images side by side under their names, each of which can be taken out again."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_whole

Pixels = NDArray[np.uint8]
#: Window of an image: y, x, height, width.
Window = tuple[int, int, int, int]

_GAP = 4
_WHITE = 255
_HEAD = 33  # bytes of a PNG file before its second chunk
_KEYWORD = "d2sm images"  # of the text in a PNG file that says where its images are


class Sheet(NamedTuple):
    """A picture made of images.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        windows: name of each image -> where it is; empty where nobody knows.
    """

    pixels: Pixels
    windows: Mapping[str, Window]

    def images(self) -> dict[str, Pixels]:
        """Return the images (h, w, 3) by name."""
        return {name: self.pixels[y : y + h, x : x + w] for name, (y, x, h, w) in self.windows.items()}


def lay_out(images: Mapping[str, Pixels]) -> Sheet:
    """Return one picture with the given ones in a row, each under its name.

    Args:
        images: name -> (H, W, 3) uint8 RGB. Smaller ones (the input of super-resolution) are enlarged without
            interpolation to the height of the tallest.
    """
    height = max(image.shape[0] for image in images.values())
    scale = max(0.4, height / 700)
    strip = round(30 * scale) + 6
    columns: list[Pixels] = []
    windows: dict[str, Window] = {}
    x = 0
    for name, image in images.items():
        if image.shape[0] != height:
            width = round(image.shape[1] * height / image.shape[0])
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
        title = np.full((strip, image.shape[1], 3), _WHITE, np.uint8)
        cv2.putText(title, name, (4, strip - 8), cv2.FONT_HERSHEY_SIMPLEX, scale, (20, 20, 20), 1, cv2.LINE_AA)
        columns += [np.vstack([title, image]), np.full((strip + height, _GAP, 3), _WHITE, np.uint8)]
        windows[name] = (strip, x, height, image.shape[1])
        x += image.shape[1] + _GAP
    return Sheet(np.hstack(columns[:-1]), windows)


def side_by_side(images: Mapping[str, Pixels]) -> Pixels:
    """Return the pixels (H', W', 3) of :func:`lay_out`."""
    return lay_out(images).pixels


def stack_sheets(rows: Sequence[Sheet]) -> Sheet:
    """Return sheets one below the other, narrower ones filled up with white at the right; names must differ."""
    width = max(row.pixels.shape[1] for row in rows)
    padded = [
        np.pad(row.pixels, ((0, 0), (0, width - row.pixels.shape[1]), (0, 0)), constant_values=_WHITE) for row in rows
    ]
    windows: dict[str, Window] = {}
    top = 0
    for row in rows:
        windows |= {name: (y + top, x, h, w) for name, (y, x, h, w) in row.windows.items()}
        top += row.pixels.shape[0]
    return Sheet(np.vstack(padded), windows)


def write_png(path: str | Path, image: Pixels) -> None:
    """Write an (H, W, 3) uint8 RGB picture, whole or not at all; folders are made as needed.

    Raises:
        DataError: when the file cannot be written.
    """
    write_whole(path, _encoded(image))


def write_sheet(path: str | Path, sheet: Sheet) -> None:
    """Write a sheet as a PNG file whose text says where its images are, see :func:`write_png`."""
    data = _encoded(sheet.pixels)
    text = _KEYWORD.encode() + bytes(5) + json.dumps(sheet.windows).encode()  # neither packed nor translated
    chunk = b"iTXt" + text
    write_whole(
        path, data[:_HEAD] + struct.pack(">I", len(text)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[_HEAD:]
    )


def read_sheet(path: Path) -> Sheet:
    """Read a picture, with the places of its images where its file says them.

    Raises:
        DataError: when it is no picture, or damaged.
    """
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
            windows = json.loads(getattr(file, "text", {}).get(_KEYWORD, "{}"))
        return Sheet(pixels, {str(name): _window(numbers, pixels) for name, numbers in windows.items()})
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: it is no picture, or damaged ({error}); remove it") from error


def sheets_of_step(folder: Path, step: int) -> Iterator[tuple[str, str, Path]]:
    """Yield the pictures that the validation of a step wrote: set, key of the image, file.

    Args:
        folder: ``visualization`` of a run.
        step: of the training.
    """
    for path in sorted(folder.glob(f"*/*_{step}.png")):
        yield path.parent.name, path.stem.removesuffix(f"_{step}"), path


def most_detailed(image: Pixels, size: int) -> Window:
    """Return the window in which the brightness changes most from pixel to pixel.

    Args:
        image: (H, W, 3) uint8.
        size: side of the window; of a smaller image the whole side.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float64)
    detail = np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1))
    height, width = min(size, grey.shape[0]), min(size, grey.shape[1])
    sums = cv2.integral(detail)
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    y, x = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(y), int(x), height, width


def _encoded(image: Pixels) -> bytes:
    data: bytes = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
    return data


def _window(numbers: Sequence[int], pixels: Pixels) -> Window:
    y, x, height, width = map(int, numbers)
    if min(y, x) < 0 or min(height, width) < 1 or y + height > pixels.shape[0] or x + width > pixels.shape[1]:
        raise ValueError(f"an image at {numbers} is outside of it")
    return y, x, height, width
