"""Pictures inside the page, as data URIs, as many as its size allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from d2sm_plugin.pipeline.pictures import Pixels, most_detailed, read_sheet

_QUALITY = 90
_LARGEST = 512  # side of the window that is shown of larger images, in pixels
_WIDEST = 1400  # of plots and of pictures that are shown as they are


class Shown(NamedTuple):
    """An image in the page: its name, data URI, width and height."""

    name: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Comparison:
    """Images of one scene, two of which can be laid over each other; a single one is a picture as it is.

    Attributes:
        title: of the scene.
        images: the same window of each.
        note: which window, where it is not the whole.
    """

    title: str
    images: Sequence[Shown]
    note: str = ""


class Album:
    """Maker of pictures for a page that may take so many bytes.

    Args:
        most_bytes: of all pictures together.

    Attributes:
        shown: files of the pictures in the page.
        left_out: titles of the pictures for which there was no room.
    """

    def __init__(self, most_bytes: int) -> None:
        self.room = most_bytes
        self.shown: set[Path] = set()
        self.left_out: list[str] = []

    def comparison(self, path: Path, title: str) -> Comparison | None:
        """Return the images of a sheet, or the picture as it is where its images are not known; None without room.

        Of images with more than 512 pixels a side the window with the most detail is shown.

        Raises:
            DataError: when it is no picture.
        """
        sheet = read_sheet(path)
        images = sheet.images()
        if len(images) < 2:
            return self._kept(path, title, [_shown("", sheet.pixels, _WIDEST)], "")
        reference = list(images.values())[-1 if "clean" not in images else list(images).index("clean")]
        y, x, height, width = most_detailed(reference, _LARGEST)
        whole = (height, width) == reference.shape[:2]
        cut = {name: image if whole else image[y : y + height, x : x + width] for name, image in images.items()}
        note = "" if whole else f"{width} × {height} pixels from ({x}, {y}) on"
        return self._kept(path, title, [_shown(name, image) for name, image in cut.items()], note)

    def plot(self, path: Path, title: str) -> Comparison | None:
        """Return a plot as it is, whatever room there is; None where there is no such file."""
        if not path.is_file():
            return None
        sheet = read_sheet(path)
        return Comparison(title, [_shown(title, sheet.pixels, _WIDEST, lossless=True)])

    def _kept(self, path: Path, title: str, images: Sequence[Shown], note: str) -> Comparison | None:
        size = sum(len(image.uri) for image in images)
        if size > self.room:
            self.left_out.append(title)
            return None
        self.room -= size
        self.shown.add(path)
        return Comparison(title, images, note)


def _shown(name: str, pixels: Pixels, widest: int = 0, lossless: bool = False) -> Shown:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if widest and image.width > widest:
        image = image.resize((widest, max(1, round(image.height * widest / image.width))), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if lossless:
        image.quantize(128).save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    kind = "png" if lossless else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Shown(name, uri, image.width, image.height)
