"""Colour filter arrays of cameras: taking two of three colours from every pixel, and estimating them again."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: Bayer patterns: colours of the first two rows' first two pixels, row by row.
PATTERNS = ("rggb", "grbg", "gbrg", "bggr")
#: Filters of Malvar, He and Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color
#: images", ICASSP 2004 (Figure 2): what is estimated where, from the mosaic itself.
_GREEN = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
_FROM_SIDES = (
    np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8
)
_FROM_CORNERS = (
    np.array([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]) / 8
)


def mosaicked(image: NDArray[np.float32], pattern: str) -> NDArray[np.float32]:
    """Return the mosaic (H, W) of an RGB image (H, W, 3) under one of :data:`PATTERNS`."""
    mosaic = np.empty(image.shape[:2], np.float32)
    for row, column, channel in _places(pattern):
        mosaic[row::2, column::2] = image[row::2, column::2, channel]
    return mosaic


def demosaicked(mosaic: NDArray[np.float32], pattern: str) -> NDArray[np.float32]:
    """Return the RGB image (H, W, 3) of a mosaic (H, W), by the linear filters of Malvar, He and Cutler.

    MATLAB's ``demosaic`` uses them, too. Beyond its borders the mosaic is mirrored, which keeps the pattern.
    """
    kernels = (_GREEN, _FROM_SIDES, _FROM_SIDES.T, _FROM_CORNERS)
    green, sides, above, corners = (
        cv2.filter2D(mosaic, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101) for kernel in kernels
    )
    image = np.repeat(mosaic[..., None], 3, axis=2)  # each pixel's own colour stays
    places = _places(pattern)
    row_of = {channel: row for row, _, channel in places if channel != 1}
    for row, column, channel in places:
        rows, columns = slice(row, None, 2), slice(column, None, 2)
        if channel == 1:
            for other in (0, 2):  # red or blue lies beside the pixel, or above and below it
                image[rows, columns, other] = (sides if row_of[other] == row else above)[rows, columns]
        else:
            image[rows, columns, 1] = green[rows, columns]
            image[rows, columns, 2 - channel] = corners[rows, columns]
    return image


def _places(pattern: str) -> list[tuple[int, int, int]]:
    """Return row, column and channel of each place of a pattern."""
    return [(number // 2, number % 2, "rgb".index(colour)) for number, colour in enumerate(pattern)]
