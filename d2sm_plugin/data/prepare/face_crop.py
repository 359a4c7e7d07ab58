"""Cutting a face out of a photograph, upright if wanted, with its landmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from basicsr.utils.matlab_functions import imresize
from numpy.typing import NDArray
from PIL import Image

from d2sm_plugin.errors import DataError
from d2sm_plugin.faces.landmarks import PointSet, eye_centres

_SMALLEST_SIDE = 8.0


@dataclass(frozen=True)
class FaceSquare:
    """A square in a photograph, perhaps turned.

    Attributes:
        centre: x and y in pixels; pixel centres are whole numbers.
        side: in pixels.
        angle: by which the face is turned clockwise in the photograph, in radians; cutting turns it back.
    """

    centre: tuple[float, float]
    side: float
    angle: float = 0.0

    def to_crop(self, points: NDArray[np.floating], size: int) -> NDArray[np.float32]:
        """Return points (P, 2) of the photograph in pixels of the crop, which has ``size`` x ``size``."""
        scale = size / self.side
        offset = np.asarray(points, np.float64) - self.centre
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned = offset @ np.array([[cos, -sin], [sin, cos]])
        return (turned * scale + (size - 1) / 2).astype(np.float32)


def square_around_landmarks(
    points: NDArray[np.floating], margin: float, scheme: PointSet | None, where: str
) -> FaceSquare:
    """Return the square around the middle of the landmarks.

    Args:
        points: (P, 2) in pixels.
        margin: side of the square in units of the larger extent of the landmarks.
        scheme: turns the square so that the eye centres are level; None leaves it upright.
        where: name of the face for the message.

    Raises:
        DataError: when the landmarks are too close together to be a face.
    """
    angle = 0.0
    if scheme is not None:
        (left_x, left_y), (right_x, right_y) = eye_centres(points, scheme)
        angle = math.atan2(right_y - left_y, right_x - left_x)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    turned = points @ turn
    low, high = turned.min(axis=0), turned.max(axis=0)
    centre = turn @ ((low + high) / 2)
    return _checked(FaceSquare((float(centre[0]), float(centre[1])), float(margin * (high - low).max()), angle), where)


def square_of_box(box: tuple[float, float, float, float], margin: float, where: str) -> FaceSquare:
    """Return the square that has a box's centre and its longer side times ``margin``.

    Args:
        box: left, top, right and bottom edge in pixels; the right and bottom edges are outside.
        margin: factor on the side.
        where: name of the face for the message.

    Raises:
        DataError: when the box is empty.
    """
    left, top, right, bottom = box
    side = margin * max(right - left, bottom - top)
    return _checked(FaceSquare(((left + right - 1) / 2, (top + bottom - 1) / 2), side), where)


def cut_face(photograph: NDArray[np.uint8], square: FaceSquare, size: int) -> NDArray[np.uint8]:
    """Return the face in a square, ``size`` x ``size``.

    It is cut at the photograph's own resolution (an upright square at whole pixels keeps them as they are) and scaled
    with PIL's bicubic filter, as DICNet's data are. Where the square leaves the photograph, its border is repeated.

    Args:
        photograph: uint8 (H, W, 3).
        square: from which.
        size: side of the result in pixels.
    """
    side = max(1, round(square.side))
    shrink = square.side / side  # a side of whole pixels, the rest by scaling
    cos, sin = math.cos(square.angle) * shrink, math.sin(square.angle) * shrink
    middle = (side - 1) / 2
    x, y = square.centre
    to_photograph = np.array(
        [[cos, -sin, x - cos * middle + sin * middle], [sin, cos, y - sin * middle - cos * middle]]
    )
    crop = cv2.warpAffine(
        photograph,
        to_photograph,
        (side, side),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if side == size:
        return crop
    return np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))


def shrink_face(face: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return a face (H, W, 3) reduced ``scale`` times as MATLAB's ``imresize`` does (bicubic, antialiased)."""
    small = imresize(face.astype(np.float32) / 255, 1 / scale)
    return (np.clip(small, 0, 1) * 255).round().astype(np.uint8)


def _checked(square: FaceSquare, where: str) -> FaceSquare:
    if not square.side >= _SMALLEST_SIDE:
        raise DataError(
            f"{where}: the face would be cut {square.side:.1f} pixels wide; its landmarks or its box cannot be right"
        )
    return square
