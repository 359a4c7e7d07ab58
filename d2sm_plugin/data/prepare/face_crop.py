"""Cutting a face out of a photograph, upright if wanted, with its landmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.data.face_scaling import scale_face
from d2sm_plugin.errors import DataError
from d2sm_plugin.faces.landmarks import PointSet, eye_centres

_SMALLEST_SIDE = 8.0
_NO_POINTS = np.empty((0, 2), np.float32)


@dataclass(frozen=True)
class FaceBox:
    """Whole pixels of a photograph, scaled to a square whatever their shape, as DICNet's loader does it.

    Attributes:
        left: first column.
        top: first row.
        right: column behind the last.
        bottom: row behind the last.
    """

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, photograph: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
        """Return the face, ``size`` x ``size``, or as it is in the photograph (H, W, 3) for None.

        Where the box leaves the photograph, its border is repeated.
        """
        rows = np.clip(np.arange(self.top, self.bottom), 0, photograph.shape[0] - 1)
        columns = np.clip(np.arange(self.left, self.right), 0, photograph.shape[1] - 1)
        crop = photograph[rows[:, None], columns]
        return crop if size is None else scale_face(crop, _NO_POINTS, size)[0]

    def to_crop(self, points: NDArray[np.floating], size: int | None) -> NDArray[np.float32]:
        """Return points (P, 2) of the photograph in pixels of the crop, which count from its corner."""
        offset = np.asarray(points, np.float64) - (self.left, self.top)
        width, height = self.right - self.left, self.bottom - self.top
        factor = (1, 1) if size is None else (size / width, size / height)
        return (offset * factor).astype(np.float32)


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

    def cut(self, photograph: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
        """Return the face, ``size`` x ``size``, or as large as in the photograph (H, W, 3) for None.

        It is cut at the photograph's own resolution (an upright square at whole pixels keeps them as they are) and
        scaled with PIL's bicubic filter. Where the square leaves the photograph, its border is repeated.
        """
        side = max(1, round(self.side))
        shrink = self.side / side  # a side of whole pixels, the rest by scaling
        cos, sin = math.cos(self.angle) * shrink, math.sin(self.angle) * shrink
        middle = (side - 1) / 2
        x, y = self.centre
        to_photograph = np.array(
            [[cos, -sin, x - cos * middle + sin * middle], [sin, cos, y - sin * middle - cos * middle]]
        )
        flags, border = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
        cut = cv2.warpAffine(photograph, to_photograph, (side, side), flags=flags, borderMode=border)
        crop = np.asarray(cut, np.uint8)
        return crop if size is None else scale_face(crop, _NO_POINTS, size)[0]

    def to_crop(self, points: NDArray[np.floating], size: int | None) -> NDArray[np.float32]:
        """Return points (P, 2) of the photograph in pixels of the crop; pixel centres are whole numbers."""
        size = max(1, round(self.side)) if size is None else size
        offset = np.asarray(points, np.float64) - self.centre
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned = offset @ np.array([[cos, -sin], [sin, cos]])
        return (turned * size / self.side + (size - 1) / 2).astype(np.float32)


#: Where a face is in a photograph.
FaceArea = FaceBox | FaceSquare


def whole_box(box: tuple[float, float, float, float], where: str) -> FaceBox:
    """Return a box as it is, of whole pixels.

    Args:
        box: left, top, right and bottom edge in pixels; the right and bottom edges are outside.
        where: name of the face for the message.

    Raises:
        DataError: when the box is empty.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    _check_side(min(right - left, bottom - top), where)
    return FaceBox(left, top, right, bottom)


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


def _checked(square: FaceSquare, where: str) -> FaceSquare:
    _check_side(square.side, where)
    return square


def _check_side(side: float, where: str) -> None:
    if not side >= _SMALLEST_SIDE:
        raise DataError(
            f"{where}: the face would be cut {side:.1f} pixels wide; its landmarks or its box cannot be right"
        )
