"""Pictures of faces with their landmarks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SUBPIXEL_BITS = 4


def draw_points(
    face: NDArray[np.uint8], points: NDArray[np.floating], color: tuple[int, int, int], enlarge: int = 1
) -> NDArray[np.uint8]:
    """Return a copy of a face with a dot on each landmark.

    Args:
        face: uint8 (H, W, 3) RGB.
        points: (P, 2), x and y in pixels of ``face``; pixel centres are whole numbers.
        color: RGB of the dots.
        enlarge: whole factor by which the picture is enlarged first (bicubic), to leave room for the dots.

    Returns:
        uint8 (H * enlarge, W * enlarge, 3) RGB.
    """
    picture = np.ascontiguousarray(face).copy()
    if enlarge > 1:
        picture = cv2.resize(picture, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    radius = max(1, round(picture.shape[0] / 128))
    fine = 1 << _SUBPIXEL_BITS
    for x, y in (np.asarray(points, np.float64) + 0.5) * enlarge - 0.5:
        centre = (round(x * fine), round(y * fine))
        cv2.circle(picture, centre, radius * fine, color, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
    return picture
