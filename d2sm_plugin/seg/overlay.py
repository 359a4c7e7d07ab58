"""Pictures of label maps: flat colours, and colours laid over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.seg.classes import Colour

_UNCOUNTED = (0, 0, 0)


def colourise(label: NDArray[np.integer], palette: Sequence[Colour]) -> NDArray[np.uint8]:
    """Return the colours of a label map.

    Args:
        label: (H, W), values 0 to 255; values beyond the palette (ignored ones) are black.
        palette: one RGB colour per class.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    table = np.zeros((256, 3), np.uint8)
    table[:] = _UNCOUNTED
    table[: len(palette)] = palette
    return table[label]


def overlay(
    image: NDArray[np.uint8], label: NDArray[np.integer], palette: Sequence[Colour], opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Lay the colours of a label map over an image; where the map is beyond the palette, the image stays as it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W), values 0 to 255.
        palette: one RGB colour per class.
        opacity: of the colours, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ShapeError: when image and label differ in size.
    """
    if image.shape[:2] != label.shape:
        raise ShapeError(f"overlay: image {image.shape[:2]} and label map {label.shape} differ in size")
    mixed = np.rint((1 - opacity) * image + opacity * colourise(label, palette)).astype(np.uint8)
    return np.where((label < len(palette))[..., None], mixed, image)
