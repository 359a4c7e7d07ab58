"""Scaling of faces, and their landmarks with them, as DICNet's loader does it."""

from __future__ import annotations

import numpy as np
from basicsr.utils.matlab_functions import imresize
from numpy.typing import NDArray
from PIL import Image

from d2sm_plugin.errors import OptionError, suggest

REDUCTIONS = ("matlab", "pil")


def scale_face(
    face: NDArray[np.uint8], points: NDArray[np.float32], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scale a face to a square with PIL's bicubic filter.

    Args:
        face: uint8 (H, W, 3), of any shape.
        points: (P, 2), x and y in its pixels. They are multiplied by ``side / W`` and ``side / H``, as DICNet's are:
            its pixels count from the corner of the picture.
        side: of the result in pixels.

    Returns:
        The scaled face (side, side, 3) and its points; a face of that size already is returned as it is.
    """
    height, width = face.shape[:2]
    if height == width == side:
        return face, points
    return _resize(face, side), points * np.array([side / width, side / height], np.float32)


def reduce_face(face: NDArray[np.uint8], scale: int, reduction: str = "matlab") -> NDArray[np.uint8]:
    """Reduce a square face a whole number of times, bicubic and antialiased, to 8-bit values.

    Args:
        face: uint8 (H, H, 3).
        scale: H is a multiple of it.
        reduction: ``"matlab"`` as MATLAB's ``imresize`` and most of the field; ``"pil"`` as PIL and DICNet's loader.
            They differ at the border, and PIL rounds between its two passes.

    Raises:
        OptionError: for another ``reduction``.
    """
    if reduction == "pil":
        return _resize(face, face.shape[0] // scale)
    if reduction == "matlab":
        small = imresize(face.astype(np.float32) / 255, 1 / scale)
        return (np.clip(small, 0, 1) * 255).round().astype(np.uint8)
    raise OptionError(f"reduction '{reduction}' is unknown{suggest(reduction, REDUCTIONS)}")


def cut_distorted(
    face: NDArray[np.uint8], points: NDArray[np.float32], ratio: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cut a part of a face that, scaled to a square, is distorted, as DICNet does for Helen.

    The part lies around the middle of the landmarks, as far as the face reaches.

    Args:
        face: uint8 (H, W, 3), before it is scaled.
        points: (P, 2), x and y in its pixels; those outside do not restrict the part.
        ratio: height : width of the part. Below 1 it has the full width; above 1 the full height. It is brought so near
            to 1 that the landmarks fit into the part.

    Returns:
        The part and its points.
    """
    height, width = face.shape[:2]
    size = np.array([width, height])
    low, high = np.clip([points.min(axis=0), points.max(axis=0)], 0, size)
    extent = np.maximum(high - low, 1)
    ratio = float(np.clip(ratio, extent[1] / width, width / extent[0]))
    axis, length = (1, min(width * ratio, height)) if ratio < 1 else (0, width / ratio)
    middle = (low[axis] + high[axis]) / 2
    if middle < length / 2:
        first, last = 0, int(length)
    elif middle + length / 2 > size[axis]:
        first, last = size[axis] - int(length), size[axis]
    else:
        first, last = int(middle - length / 2), int(middle + length / 2)
    part = face[first:last] if axis == 1 else face[:, first:last]
    moved = points.copy()
    moved[:, axis] -= first
    return part, moved


def _resize(face: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC))
