"""Pictures of results: images side by side under their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from d2sm_plugin.files import write_whole

_GAP = 4
_WHITE = 255


def side_by_side(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one picture with the given ones in a row, each under its name.

    Args:
        images: name -> (H, W, 3) uint8 RGB. Smaller ones (the input of super-resolution) are enlarged without
            interpolation to the height of the tallest.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    height = max(image.shape[0] for image in images.values())
    scale = max(0.4, height / 700)
    strip = round(30 * scale) + 6
    columns = []
    for name, image in images.items():
        if image.shape[0] != height:
            width = round(image.shape[1] * height / image.shape[0])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        title = np.full((strip, image.shape[1], 3), _WHITE, np.uint8)
        cv2.putText(title, name, (4, strip - 8), cv2.FONT_HERSHEY_SIMPLEX, scale, (20, 20, 20), 1, cv2.LINE_AA)
        columns += [np.vstack([title, image]), np.full((strip + height, _GAP, 3), _WHITE, np.uint8)]
    return np.hstack(columns[:-1])


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB picture, whole or not at all; folders are made as needed.

    Raises:
        DataError: when the file cannot be written.
    """
    write_whole(path, cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes())
