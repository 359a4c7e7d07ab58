"""From encoded bytes to arrays of pixels, with messages that name the source."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2sm_plugin.data.picture_head import PictureHead, jpeg_end, open_picture, tiff_tags
from d2sm_plugin.errors import DataError

_PNG_COLOUR_TYPE, _PNG_GREY = 25, 0
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO, _TIFF_SAMPLE_FORMAT = 262, 0, 339


def decode_rgb(data: bytes, source: str) -> NDArray[np.uint8]:
    """Return an encoded picture as RGB, upright as its EXIF orientation says.

    Args:
        data: the bytes of a PNG, JPEG, BMP, TIFF, WebP or AVIF file (the last where Pillow reads it). Grey pictures get
            three equal channels, an alpha channel is dropped, 16 bits a channel become 8.
        source: file or record, for the message.

    Returns:
        uint8 (H, W, 3), contiguous.

    Raises:
        DataError: when the bytes do not decode, or hold several pictures, floating-point pixels or more pixels than
            :data:`d2sm_plugin.data.picture_head.MAX_PIXELS`.
    """
    with open_picture(data, source) as (image, head):
        check_depth(image, head, source)
        if (head.type in ("AVIF", "TIFF") and head.bits <= 8) or head.mode == "CMYK":
            pixels = np.array(image.convert("RGB"))
            return upright(pixels, 1 if head.type == "TIFF" else head.orientation)
    pixels = decode_with_opencv(data, head, source, cv2.IMREAD_COLOR)
    return upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), head.orientation)


def decode_label(data: bytes, source: str) -> NDArray[np.uint8]:
    """Return an encoded label map as its values are stored, turned upright as its EXIF orientation says.

    One bit a pixel gives 0 and 1, two or four bits of grey what the file holds (0 to 3, 0 to 15), a palette indices.

    Returns:
        uint8 (H, W).

    Raises:
        DataError: when the bytes do not decode, or hold colours, values above 255, or values that compression changed.
    """
    with open_picture(data, source) as (image, head):
        _check_label_kind(image, head, source)
        if head.type == "PNG" and head.bits == 8 and data[_PNG_COLOUR_TYPE] == _PNG_GREY:
            label = decode_with_opencv(data, head, source, cv2.IMREAD_UNCHANGED)
            label = label if label.ndim == 2 else label[..., 0]  # one grey value is declared transparent
        else:
            label = np.array(image)
            if head.mode == "L" and head.bits in (2, 4):  # which Pillow spreads over 0 to 255
                label //= 255 // (2**head.bits - 1)
    if label.max(initial=0) > 255:
        raise DataError(f"{source}: label value {label.max()}; label maps hold train ids up to 254, and 255 = ignore")
    return upright(label.astype(np.uint8, copy=False), 1 if head.type == "TIFF" else head.orientation)


def encode_png(pixels: NDArray[np.uint8], level: int) -> bytes:
    """Return pixels, RGB (H, W, 3) or one channel (H, W), as a PNG file of compression ``level`` (0 to 9)."""
    array = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, encoded = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise DataError(f"an image of shape {pixels.shape} cannot be encoded as PNG")
    return encoded.tobytes()


def check_depth(image: Image.Image, head: PictureHead, source: str) -> None:
    """Refuse pixels that are no whole numbers of 8 or 16 bits, and deep TIFF files that ask to be turned.

    Raises:
        DataError: for these.
    """
    if head.mode == "F" or head.bits > 16:
        kind = "floating-point numbers" if head.mode == "F" else f"numbers of {head.bits} bits"
        raise DataError(f"{source}: its pixels are {kind}; convert it to 8 or 16 bits a channel")
    if head.type == "TIFF" and head.bits > 8:
        whole = set(tiff_tags(image).get(_TIFF_SAMPLE_FORMAT, (1,))) == {1}
        if head.orientation != 1 or not whole:
            raise DataError(f"{source}: a 16-bit TIFF must be upright and hold whole numbers; convert it to a PNG")


def decode_with_opencv(data: bytes, head: PictureHead, source: str, flag: int) -> NDArray[Any]:
    """Return what OpenCV decodes, blue first, as stored: not turned upright.

    Raises:
        DataError: when it decodes nothing, or the end of a JPEG file is missing.
    """
    # Older releases of OpenCV fill the missing part of a cut JPEG with grey, without a word.
    cut = head.type == "JPEG" and jpeg_end(data) is None
    try:
        pixels = None if cut else cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{source}: it does not decode as an image ({error.err}); replace or remove it") from error
    if pixels is None:
        raise DataError(
            f"{source}: it does not decode as an image ({len(data)} bytes); it is damaged, truncated or of another "
            f"format; replace or remove it"
        )
    return pixels


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return pixels (H, W) or (H, W, C) turned as an EXIF orientation (1 to 8) says; contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _check_label_kind(image: Image.Image, head: PictureHead, source: str) -> None:
    if head.mode not in ("1", "L", "P") and not (head.bits == 16 and head.mode.startswith("I")):
        raise DataError(
            f"{source}: a label map has one channel (train ids, 255 = ignore), this one has {len(image.getbands())} of "
            f"{head.bits} bits; turn colours into ids first"
        )
    if head.type == "JPEG":
        raise DataError(f"{source}: JPEG changes the values that are saved; make the label map anew as PNG")
    if head.type == "TIFF" and tiff_tags(image).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise DataError(f"{source}: this TIFF file counts from white down, so its values are not ids; save it as PNG")
