"""Sets of facial landmarks: how many points, which are mirror images, which belong together.

Points are numbered from 0. "Left" and "right" are the viewer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import OptionError, suggest


@dataclass(frozen=True)
class PointSet:
    """One scheme of landmarks.

    Attributes:
        name: as option files spell it.
        mirror: the point that each point becomes when the image is flipped left to right.
        components: points of each facial component, by name; every point is in exactly one.
        eyes: points of the left and the right eye that their centres are averaged from.
        eye_corners: outer corner of the left and of the right eye.
    """

    name: str
    mirror: tuple[int, ...]
    components: Mapping[str, tuple[int, ...]]
    eyes: tuple[tuple[int, ...], tuple[int, ...]]
    eye_corners: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.mirror)


def _span(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _mirror(count: int, *pairs: tuple[int, int]) -> tuple[int, ...]:
    """The permutation that exchanges the points of each pair and leaves the others."""
    mirror = list(range(count))
    for left, right in pairs:
        mirror[left], mirror[right] = right, left
    return tuple(mirror)


#: The 68 points of iBUG's 300-W, which OpenFace and the published DICNet use. The components are DICNet's five.
IBUG68 = PointSet(
    name="ibug68",
    mirror=_mirror(
        68,
        *((point, 16 - point) for point in range(8)),  # outline
        *((point, 43 - point) for point in range(17, 22)),  # brows
        (31, 35),
        (32, 34),  # nostrils
        *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),  # eyes
        *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),  # outer lips
        *((60, 64), (61, 63), (65, 67)),  # inner lips
    ),
    components={
        "left_eye": _span(36, 41),
        "right_eye": _span(42, 47),
        "nose": _span(27, 35),
        "mouth": _span(48, 67),
        "outline": _span(0, 26),
    },
    eyes=(_span(36, 41), _span(42, 47)),
    eye_corners=(36, 45),
)

#: The 29 points that LFPW introduced and COFW and some labels of Helen share: brows 0-7 (corners, then upper and lower
#: middle), eyes 8-17 (corners, lids, centres), nose 18-21, mouth 22-27, chin 28. DICNet has no grouping for them; this
#: one follows its five components.
HELEN29 = PointSet(
    name="helen29",
    mirror=_mirror(
        29,
        *((0, 1), (2, 3), (4, 6), (5, 7)),  # brows
        *((8, 9), (10, 11), (12, 14), (13, 15), (16, 17)),  # eyes
        (18, 19),  # nostrils
        (22, 23),  # corners of the mouth
    ),
    components={
        "left_eye": (8, 10, 12, 13, 16),
        "right_eye": (9, 11, 14, 15, 17),
        "nose": (18, 19, 20, 21),
        "mouth": (22, 23, 24, 25, 26, 27),
        "outline": (0, 1, 2, 3, 4, 5, 6, 7, 28),
    },
    eyes=((16,), (17,)),
    eye_corners=(8, 9),
)

#: The 5 points of CelebA's ``list_landmarks_celeba.txt``: eyes, tip of the nose, corners of the mouth. They have no
#: eye corners, so the centres stand in for them.
CELEBA5 = PointSet(
    name="celeba5",
    mirror=_mirror(5, (0, 1), (3, 4)),
    components={"left_eye": (0,), "right_eye": (1,), "nose": (2,), "mouth": (3, 4)},
    eyes=((0,), (1,)),
    eye_corners=(0, 1),
)

POINT_SETS = {points.name: points for points in (IBUG68, HELEN29, CELEBA5)}


def point_set(name: str, where: str = "points") -> PointSet:
    """Return the point set of that name.

    Args:
        name: ``"ibug68"``, ``"helen29"`` or ``"celeba5"``.
        where: path of the option for the message.

    Raises:
        OptionError: for an unknown name.
    """
    if name not in POINT_SETS:
        raise OptionError(f"{where}: no set of landmarks '{name}'{suggest(name, POINT_SETS)}")
    return POINT_SETS[name]


def eye_centres(points: NDArray[np.floating], scheme: PointSet) -> NDArray[np.floating]:
    """Return the centres of the left and the right eye, (2, 2), of points (P, 2), x before y."""
    return np.stack([points[list(eye)].mean(axis=0) for eye in scheme.eyes])


def flip_points(points: NDArray[np.floating], width: float, scheme: PointSet) -> NDArray[np.floating]:
    """Return the points of an image that was flipped left to right.

    Args:
        points: (P, 2), x and y in pixels; pixel centres are whole numbers, so x becomes ``width - 1 - x``.
        width: of the image.
        scheme: says which points change places; both eyes do (in DICNet's published code they do not).
    """
    flipped = points[list(scheme.mirror)].copy()
    flipped[:, 0] = width - 1 - flipped[:, 0]
    return flipped


def rotate_points(points: NDArray[np.floating], size: tuple[int, int], quarters: int) -> NDArray[np.floating]:
    """Return the points of an image that ``numpy.rot90(image, quarters)`` turned anticlockwise.

    Args:
        points: (P, 2), x and y in pixels.
        size: (height, width) before the turn.
        quarters: quarter turns, any whole number.
    """
    height, width = size
    turned = points.copy()
    for _ in range(quarters % 4):
        turned = np.stack([turned[:, 1], width - 1 - turned[:, 0]], axis=1)
        height, width = width, height
    return turned
