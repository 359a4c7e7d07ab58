"""Heads of picture files: type, size and orientation, read before a pixel is decoded; and what is refused there.

Every tool opens pictures here, so that they agree on what a picture is.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError, features

from d2sm_plugin.errors import DataError

#: File name endings of pictures that are read, with Pillow's name of their type.
TYPES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".bmp": "BMP",
    **({".webp": "WEBP"} if features.check("webp") else {}),
    **({".avif": "AVIF"} if "avif" in features.modules and features.check("avif") else {}),
}
#: Endings of pictures that are not read; a folder that holds some says so.
UNREAD_TYPES = frozenset(
    {".avif", ".webp", ".gif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".psd", ".exr", ".hdr", ".tga", ".ico"}
    | {".ppm", ".pgm", ".pnm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".mpo"}
).difference(TYPES)
#: Pictures of more pixels are taken for an attempt to fill the memory, as Pillow does by default.
MAX_PIXELS = 2 * 89_478_485
_MAX_BYTES = 1 << 32  # the largest classic TIFF
_ORIENTATION = 0x0112  # tags of EXIF and TIFF
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_PAGE_KIND = 256, 257, 258, 254
_REDUCED_OR_MASK = 1 | 4  # what _TIFF_PAGE_KIND says of a page that only goes with another one
_PNG_DEPTH = 24  # where a PNG file says how many bits a channel has
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", 0xDA, 0xD9
# Behind 0xFF, entropy-coded data hold a zero or a restart marker (D0 to D7) alone; any other byte begins a segment.
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")


@dataclass(frozen=True)
class PictureHead:
    """Type, size and orientation that the head of a picture file states.

    Attributes:
        type: ``"PNG"``, ``"JPEG"``, ``"BMP"``, ``"TIFF"``, ``"WEBP"`` or ``"AVIF"``.
        mode: Pillow's name for the kind of pixels, such as ``"RGB"``, ``"L"`` or ``"P"``.
        bits: of a channel, or of an index into a palette.
        height: in pixels, upright as the picture is shown.
        width: likewise.
        orientation: how the stored pixels are turned, 1 (upright) to 8, as EXIF counts.
    """

    type: str
    mode: str
    bits: int
    height: int
    width: int
    orientation: int


def read_picture_bytes(path: str | Path) -> bytes:
    """Return the bytes of a picture file.

    Raises:
        DataError: when it cannot be read, or is a pipe, a device or larger than any picture.
    """
    with _opened_file(path) as file:
        return file.read()


def picture_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) of a picture file as it is shown, from its head alone.

    Raises:
        DataError: when it is no picture that is read.
    """
    with _opened_file(path) as file, open_picture(file, str(path)) as (_, head):
        return head.height, head.width


@contextmanager
def open_picture(
    data: bytes | BinaryIO, source: str, max_pixels: int = MAX_PIXELS, remedy: str = "cut it, or remove it"
) -> Iterator[tuple[Image.Image, PictureHead]]:
    """Open a picture with Pillow; its pixels are decoded only when they are asked for.

    Whatever Pillow raises inside the context becomes a :class:`DataError`.

    Args:
        data: the encoded picture, or a binary stream of it.
        source: file or record, for messages.
        max_pixels: the largest picture that is let through.
        remedy: what to do about a larger one, for the message.

    Raises:
        DataError: when it is no picture, of a type that is not read, damaged, too large, or several pictures in one.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        start = stream.read(_PNG_DEPTH + 1)
        stream.seek(0)
        if not start:
            raise DataError(f"{source}: it is empty (0 bytes); replace or remove it")
        with _pillow_lets_through(max_pixels), Image.open(stream, formats=_types_read()) as image:
            head = _read_head(image, start)
            if head.height * head.width > max_pixels:
                raise DataError(
                    f"{source}: {head.width}x{head.height} pixels (width x height) are more than the "
                    f"{max_pixels:,} that are let through, as a file made to fill the memory has; {remedy}"
                )
            _check_single(image, head, source)
            yield image, head
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{source}: {str(error).rstrip('.')}; {remedy}") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{source}: it does not decode as an image ({_length(stream)} bytes); it is damaged, truncated or of "
            f"another format; replace or remove it"
        ) from error
    except Exception as error:  # each of Pillow's readers has its own ways to fail; all mean the same here
        raise DataError(
            f"{source}: it does not decode as an image ({_length(stream)} bytes): damaged or truncated "
            f"({type(error).__name__}: {error}); replace or remove it"
        ) from error


def jpeg_end(data: bytes) -> int | None:
    """Return where the first picture in the bytes of a JPEG file ends; None where it is cut off.

    Phones append films and further pictures; markers inside the thumbnail of the EXIF block do not count.
    """
    position = len(_JPEG_START)
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = match[1][0], match.end()
        if marker == _JPEG_END:
            return position
        if 0xC0 <= marker <= 0xFE and marker != _JPEG_START[1]:  # a segment that says its own length
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return None


@cache
def _types_read() -> list[str]:
    Image.preinit()
    wanted = {*TYPES.values(), "MPO"}
    if not wanted <= set(Image.OPEN):
        Image.init()
    return sorted(wanted & set(Image.OPEN))


def tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of an opened TIFF file, by number."""
    return image.tag_v2  # type: ignore[attr-defined]  # only Pillow's class of TIFF files has them


def _read_head(image: Image.Image, start: bytes) -> PictureHead:
    width, height = image.size
    bits = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}.get(image.mode, 8)
    try:
        # Not the PNG reader's own: that decodes all pixels to look for an EXIF block behind them.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # a damaged EXIF block says nothing, and the picture is whole without
        orientation = 1
    if image.format == "PNG":
        bits = start[_PNG_DEPTH]
    elif image.format == "TIFF":  # which Pillow turns upright by itself, and some releases say the size of already
        tags = tiff_tags(image)
        bits = max(tags.get(_TIFF_BITS, (1,)))
        orientation = tags.get(_ORIENTATION, 1)
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    orientation = orientation if orientation in range(1, 9) else 1
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return PictureHead(kind, image.mode, bits, height, width, orientation)


def _check_single(image: Image.Image, head: PictureHead, source: str) -> None:
    """Refuse animations and pages. The first picture of a JPEG file is the picture, the others are previews."""
    pages = frames = getattr(image, "n_frames", 1)
    if pages == 1 or head.type == "JPEG":
        return
    if head.type == "TIFF":
        frames = 1
        for page in range(1, pages):
            image.seek(page)
            frames += not tiff_tags(image).get(_TIFF_PAGE_KIND, 0) & _REDUCED_OR_MASK
        image.seek(0)
    if frames > 1:
        raise DataError(f"{source}: it has {frames} frames or pages; give it as single pictures")


@contextmanager
def _opened_file(path: str | Path) -> Iterator[BinaryIO]:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait until somebody writes into it
            raise DataError(f"{path}: it is no file but a folder, pipe or device; remove it")
        if status.st_size > _MAX_BYTES:
            raise DataError(f"{path}: {status.st_size:,} bytes are more than any picture has; remove it")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextmanager
def _pillow_lets_through(max_pixels: int) -> Iterator[None]:
    """Raise Pillow's limit, which is one for the whole process, where a larger picture is wanted."""
    usual = Image.MAX_IMAGE_PIXELS
    if max_pixels <= MAX_PIXELS or usual is None:
        yield
        return
    Image.MAX_IMAGE_PIXELS = max(usual, max_pixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _length(stream: BinaryIO) -> int:
    try:
        return stream.seek(0, os.SEEK_END)
    except (OSError, ValueError):
        return 0
