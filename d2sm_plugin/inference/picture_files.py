"""Picture files with what comes with them: orientation, transparency, grey, 8 or 16 bits, colour profile."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_whole

#: File types that are read and written, by ending, with what Pillow is told when it writes one.
FORMATS = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF", "compression": "tiff_lzw"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
}
_ORIENTATION, _BITS, _SAMPLE_FORMAT = 0x0112, 258, 339  # tags of EXIF and TIFF
_PNG_DEPTH = 24  # where a PNG's header says how many bits a channel has


@dataclass
class Picture:
    """A picture in memory, upright.

    Attributes:
        pixels: uint8 or uint16 (H, W, 3) RGB, or (H, W, 1) grey.
        alpha: transparency (H, W) of the same type, or None.
        profile: ICC colour profile (8-bit pictures alone), or None.
    """

    pixels: NDArray
    alpha: NDArray | None = None
    profile: bytes | None = None

    @property
    def white(self) -> int:
        """The largest value of a channel: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def read_picture(path: str | Path) -> Picture:
    """Read a picture and turn it upright as its EXIF orientation says.

    Palettes become colours, black-and-white becomes grey, CMYK becomes RGB.

    Raises:
        DataError: when the file is missing, does not decode, is truncated, has several frames or pages, holds
            floating-point pixels, or is a 16-bit TIFF that asks to be turned (turn it first).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise DataError(f"{path}: it is empty (0 bytes); replace or remove it")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_kind(image, path)
            if _is_deep(image, data):
                return _read_deep(image, data, path)
            return _read_plain(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: it does not decode as a picture ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: it is damaged or truncated ({error}); replace or remove it") from error


def write_picture(path: str | Path, picture: Picture) -> None:
    """Write a picture in the format of the path's ending; the file appears whole or not at all.

    PNG, WebP, BMP and TIFF are written without loss, JPEG with quality 95. Metadata other than the colour profile is
    not written: the orientation has been applied already.

    Raises:
        DataError: when the format cannot hold 16 bits or transparency, or the file cannot be written.
    """
    path = Path(path)
    _check_target(path, picture)
    write_whole(path, _encode(path.suffix.lower(), picture))


def _check_kind(image: Image.Image, path: Path) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{path}: it has {image.n_frames} frames or pages; give it as single pictures")
    if image.mode == "F":
        raise DataError(f"{path}: its pixels are floating-point numbers; convert it to 8 or 16 bits a channel")


def _is_deep(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[_PNG_DEPTH] == 16
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (1,))) > 8
    return image.mode.startswith("I")


def _read_plain(image: Image.Image) -> Picture:
    profile = image.info.get("icc_profile") if image.mode != "CMYK" else None
    transparent = "A" in image.getbands() or "transparency" in image.info
    image = ImageOps.exif_transpose(image)
    grey = image.mode in ("1", "L", "LA")
    wanted = ("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB")
    pixels = np.array(image.convert(wanted))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if not transparent:
        return Picture(pixels, profile=profile)
    return Picture(np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1]), profile)


def _read_deep(image: Image.Image, data: bytes, path: Path) -> Picture:
    """Read 16 bits a channel with OpenCV; Pillow would make 8 of them."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.format == "TIFF" and (orientation != 1 or set(image.tag_v2.get(_SAMPLE_FORMAT, (1,))) != {1}):
        raise DataError(f"{path}: a 16-bit TIFF must be upright and hold whole numbers; convert it to a 16-bit PNG")
    image.load()  # fails where the file is cut, which OpenCV may pass over
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        kind = "nothing" if pixels is None else str(pixels.dtype)
        raise DataError(f"{path}: expected a picture of 16 bits a channel, decoded {kind}; convert it to a PNG")
    pixels = _upright(pixels if pixels.ndim == 3 else pixels[..., None], orientation)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[-1] == 4 else None
    colours = pixels[..., :3]
    if alpha is not None and (colours == colours[..., :1]).all():
        colours = colours[..., :1]  # OpenCV keeps grey with transparency as three equal channels, in both directions
    return Picture(np.ascontiguousarray(colours[..., ::-1]), alpha)


def _upright(pixels: NDArray, orientation: int) -> NDArray:
    """Apply an EXIF orientation (1 to 8) to pixels (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _check_target(path: Path, picture: Picture) -> None:
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise DataError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    if picture.pixels.dtype == np.uint16 and ending not in (".png", ".tif", ".tiff"):
        raise DataError(f"{path}: {ending} files cannot hold 16 bits a channel; write a .png")
    if picture.alpha is not None and ending in (".jpg", ".jpeg", ".bmp"):
        raise DataError(f"{path}: {ending} files cannot hold transparency; write a .png")


def _encode(ending: str, picture: Picture) -> bytes:
    pixels = picture.pixels
    if pixels.dtype == np.uint16:
        return _encode_deep(ending, picture)
    if picture.alpha is not None:
        pixels = np.concatenate((pixels, picture.alpha[..., None]), axis=-1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if picture.alpha is not None and pixels.shape[-1] == 2 and ending == ".webp":
        image = image.convert("RGBA")  # WebP knows no grey with transparency
    buffer = io.BytesIO()
    settings = FORMATS[ending] | ({"icc_profile": picture.profile} if picture.profile else {})
    image.save(buffer, **settings)
    return buffer.getvalue()


def _encode_deep(ending: str, picture: Picture) -> bytes:
    pixels = picture.pixels[..., ::-1]  # OpenCV keeps blue first
    if picture.alpha is not None:
        if pixels.shape[-1] == 1:
            pixels = pixels.repeat(3, axis=-1)
        pixels = np.concatenate((pixels, picture.alpha[..., None]), axis=-1)
    done, encoded = cv2.imencode(ending, np.ascontiguousarray(pixels))
    if not done:
        raise DataError(f"a picture of shape {pixels.shape} and 16 bits cannot be encoded as {ending}")
    return encoded.tobytes()
