"""From encoded bytes to arrays of pixels, with messages that name the source."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import DataError

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def decode_rgb(data: bytes, source: str) -> NDArray[np.uint8]:
    """Return an encoded image as RGB.

    Args:
        data: the bytes of a PNG, JPEG, BMP or TIFF file. Grey images get three equal channels, an alpha channel is
            dropped, 16 bits a channel become 8.
        source: file or record, for the message.

    Returns:
        uint8 (H, W, 3), contiguous.

    Raises:
        DataError: when the bytes do not decode.
    """
    image = _decode(data, source, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def decode_label(data: bytes, source: str) -> NDArray[np.uint8]:
    """Return an encoded label map, its values untouched.

    Returns:
        uint8 (H, W).

    Raises:
        DataError: when the bytes do not decode, or hold more than one channel or more than 8 bits a pixel.
    """
    label = _decode(data, source, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        channels = 1 if label.ndim == 2 else label.shape[2]
        raise DataError(
            f"{source}: a label map has one channel of 8 bits (train ids, 255 = ignore), this one has {channels} of "
            f"{label.dtype}; colour-coded or palette labels must be turned into ids first"
        )
    return label


def encode_png(pixels: NDArray[np.uint8], level: int) -> bytes:
    """Return pixels, RGB (H, W, 3) or one channel (H, W), as a PNG file of compression ``level`` (0 to 9)."""
    array = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, encoded = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise DataError(f"an image of shape {pixels.shape} cannot be encoded as PNG")
    return encoded.tobytes()


def _decode(data: bytes, source: str, flag: int) -> NDArray:
    if not data:
        raise DataError(f"{source}: it is empty (0 bytes); replace or remove it")
    # Older releases of OpenCV fill the missing part of a cut JPEG with grey, without a word.
    cut = data[:2] == _JPEG_START and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    pixels = None if cut else cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None:
        raise DataError(
            f"{source}: it does not decode as an image ({len(data)} bytes); it is damaged, truncated or of another "
            f"format; replace or remove it"
        )
    return pixels
