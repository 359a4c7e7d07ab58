"""Many images in one picture that still opens everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_WHITE = 255


def thumbnail(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) reduced to a width, or as it is where it is no wider."""
    height = round(image.shape[0] * width / image.shape[1])
    if image.shape[1] <= width:
        return image
    return np.asarray(cv2.resize(image, (width, max(1, height)), interpolation=cv2.INTER_AREA), np.uint8)


def stack(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return pictures (H, W, 3) one below the other, narrower ones filled up with white at the right."""
    width = max(row.shape[1] for row in rows)
    padding = [((0, 0), (0, width - row.shape[1]), (0, 0)) for row in rows]
    return np.vstack([np.pad(row, pad, constant_values=_WHITE) for row, pad in zip(rows, padding, strict=True)])
