"""Resizing of float images, which keeps the axis of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Interpolation = Literal["nearest", "area", "bilinear", "bicubic", "lanczos"]
INTERPOLATIONS: dict[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
#: The three that published chains of degradations draw from.
USUAL: tuple[Interpolation, ...] = ("area", "bilinear", "bicubic")


def draw_interpolation(generator: np.random.Generator, names: Sequence[str] = USUAL) -> str:
    """Return one of these names, each as likely."""
    return names[int(generator.integers(len(names)))]


def resized(image: NDArray[np.float32], size: tuple[int, ...], interpolation: str) -> NDArray[np.float32]:
    """Return an image (H, W, C) at another size.

    Args:
        image: float32.
        size: height and width.
        interpolation: a key of :data:`INTERPOLATIONS`; only ``area`` averages when it shrinks, the others skip pixels.
    """
    if image.shape[:2] == size:
        return image
    result = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=INTERPOLATIONS[interpolation])
    return np.asarray(result.reshape(*size, image.shape[2]), np.float32)


def fitted(image: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an image (H, W, C) at another size: by area where it shrinks, by cubic interpolation where it grows."""
    shrinks = image.shape[0] * image.shape[1] > size[0] * size[1]
    return resized(image, size, "area" if shrinks else "bicubic")
