"""Picture files with what comes with them: orientation, transparency, grey, 8 or 16 bits, colour profile."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2sm_plugin.data.decoding import check_depth, decode_with_opencv, upright
from d2sm_plugin.data.picture_head import MAX_PIXELS, TYPES, PictureHead, open_picture, read_picture_bytes
from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_whole

#: What Pillow is told when it writes a type of file.
_SETTINGS: Mapping[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}
_DEEP_TYPES, _OPAQUE_TYPES = ("PNG", "TIFF"), ("JPEG", "BMP")


@dataclass
class Picture:
    """A picture in memory, upright.

    Attributes:
        pixels: uint8 or uint16 (H, W, 3) RGB, or (H, W, 1) grey.
        alpha: transparency (H, W) of the same type, or None.
        profile: ICC colour profile (8-bit pictures alone), or None.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    profile: bytes | None = None

    @property
    def white(self) -> int:
        """The largest value of a channel: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS, remedy: str = "cut it, or remove it") -> Picture:
    """Read a picture and turn it upright as its EXIF orientation says.

    Palettes become colours, black-and-white becomes grey, CMYK becomes RGB. Of a JPEG file with several pictures, as
    phones write it, the first is read.

    Args:
        path: of the file.
        max_pixels: the largest picture that is read.
        remedy: what to do about a larger one, for the message.

    Raises:
        DataError: when the file is missing, does not decode, is truncated, too large, has several frames or pages,
            holds floating-point pixels, or is a 16-bit TIFF that asks to be turned (turn it first).
    """
    source, data = str(path), read_picture_bytes(path)
    with open_picture(data, source, max_pixels, remedy) as (image, head):
        check_depth(image, head, source)
        image.load()  # fails where the file is cut, which OpenCV may pass over
        if head.bits <= 8:
            return plain_picture(image, 1 if head.type == "TIFF" else head.orientation)
    return _deep(data, head, source)


def write_picture(path: str | Path, picture: Picture) -> None:
    """Write a picture in the format of the path's ending; the file appears whole or not at all.

    PNG, WebP, BMP and TIFF are written without loss, JPEG with quality 95. Metadata other than the colour profile is
    not written: the orientation has been applied already.

    Raises:
        DataError: when the format cannot hold 16 bits or transparency, or the file cannot be written.
    """
    path = Path(path)
    _check_target(path, picture)
    write_whole(path, _encode(path, picture))


def plain_picture(image: Image.Image, orientation: int) -> Picture:
    """Return an image of 8 bits a channel as a picture, turned as the number of EXIF's orientation says."""
    profile = image.info.get("icc_profile") if image.mode != "CMYK" else None
    transparent = "A" in image.getbands() or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA")
    wanted = ("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB")
    pixels = upright(np.array(image.convert(wanted)), orientation)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if not transparent:
        return Picture(pixels, profile=profile)
    return Picture(np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1]), profile)


def _deep(data: bytes, head: PictureHead, source: str) -> Picture:
    """Read 16 bits a channel with OpenCV; Pillow would make 8 of them."""
    pixels = decode_with_opencv(data, head, source, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint16:
        raise DataError(f"{source}: expected 16 bits a channel, decoded {pixels.dtype}; convert it to a PNG")
    pixels = upright(pixels if pixels.ndim == 3 else pixels[..., None], head.orientation)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[-1] == 4 else None
    colours = pixels[..., :3]
    if alpha is not None and (colours == colours[..., :1]).all():
        colours = colours[..., :1]  # OpenCV keeps grey with transparency as three equal channels, in both directions
    return Picture(np.ascontiguousarray(colours[..., ::-1]), alpha)


def _check_target(path: Path, picture: Picture) -> None:
    ending = path.suffix.lower()
    if ending not in TYPES:
        raise DataError(f"{path}: pictures are written as {', '.join(TYPES)}")
    if picture.pixels.dtype == np.uint16 and TYPES[ending] not in _DEEP_TYPES:
        raise DataError(f"{path}: {ending} files cannot hold 16 bits a channel; write a .png")
    if picture.alpha is not None and TYPES[ending] in _OPAQUE_TYPES:
        raise DataError(f"{path}: {ending} files cannot hold transparency; write a .png")


def _encode(path: Path, picture: Picture) -> bytes:
    pixels, kind = picture.pixels, TYPES[path.suffix.lower()]
    if pixels.dtype == np.uint16:
        return _encode_deep(path, picture)
    if picture.alpha is not None:
        pixels = np.concatenate((pixels, picture.alpha[..., None]), axis=-1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if picture.alpha is not None and pixels.shape[-1] == 2 and kind in ("WEBP", "AVIF"):
        image = image.convert("RGBA")  # these know no grey with transparency
    buffer = io.BytesIO()
    settings = _SETTINGS[kind] | ({"icc_profile": picture.profile} if picture.profile else {})
    try:
        image.save(buffer, kind, **settings)
    except Exception as error:  # each of Pillow's writers has its own ways to fail, such as at 16,384 pixels in WebP
        size = f"{pixels.shape[1]}x{pixels.shape[0]} pixels (width x height)"
        raise DataError(f"{path}: {size} cannot be encoded as {kind} ({error}); write a .png") from error
    return buffer.getvalue()


def _encode_deep(path: Path, picture: Picture) -> bytes:
    pixels = picture.pixels[..., ::-1]  # OpenCV keeps blue first
    if picture.alpha is not None:
        if pixels.shape[-1] == 1:
            pixels = pixels.repeat(3, axis=-1)
        pixels = np.concatenate((pixels, picture.alpha[..., None]), axis=-1)
    done, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(pixels))
    if not done:
        raise DataError(f"{path}: a picture of shape {pixels.shape} and 16 bits cannot be encoded so")
    return encoded.tobytes()
