"""A canvas for planar surfaces in street coordinates, drawn through a pinhole camera.

Coordinates are metres: x to the right, y up from the road, z ahead of the camera. A surface is a plane with a paint;
drawing writes its number into a map of surfaces, one number per pixel. Colour, label and depth all follow from that
one map (:mod:`d2sm_plugin.scenes.render`), which makes labels and depths exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np

NEAR = 0.6  # metres; nothing nearer to the camera is drawn
SUPERSAMPLING = 2  # canvas pixels along one image pixel
_SHIFT = 4  # fractional bits of the corner coordinates that OpenCV takes
_LIMIT = 1e6  # canvas pixels; corners further out are moved here to stay within 32-bit integers


class Label(IntEnum):
    """Cityscapes train ids."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18
    IGNORE = 255


Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """Pinhole camera that looks along z.

    Attributes:
        width: canvas pixels.
        height: canvas pixels.
        focal: focal length in canvas pixels.
        centre: column of the vanishing point of straight roads.
        horizon: row of the horizon.
        elevation: metres above the road.
    """

    width: int
    height: int
    focal: float
    centre: float
    horizon: float
    elevation: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project (..., 3) street coordinates, z > 0, to (..., 2) columns and rows."""
        scale = self.focal / points[..., 2]
        projected = np.empty((*points.shape[:-1], 2))
        projected[..., 0] = self.centre + points[..., 0] * scale
        projected[..., 1] = self.horizon - (points[..., 1] - self.elevation) * scale
        return projected


class Paint(NamedTuple):
    """Look and class of a surface.

    Attributes:
        label: class of its pixels.
        colour: linear RGB in [0, 1] under full light.
        texture: a name of :data:`d2sm_plugin.scenes.textures.PATTERNS`.
        contrast: relative brightness of one standard deviation of the texture.
        tint: how strongly each colour channel follows the texture.
        stains: like ``contrast``, of a coarse pattern laid over the texture.
        glow: True for surfaces that are as bright in the shade (lamps, windows that mirror the sky).
    """

    label: Label
    colour: Colour
    texture: str = "soft"
    contrast: float = 0.05
    tint: Colour = (1.0, 1.0, 1.0)
    stains: float = 0.0
    glow: bool = False

    def tone(self, factor: float) -> Paint:
        """The same paint with its colour multiplied."""
        red, green, blue = (min(1.0, channel * factor) for channel in self.colour)
        return self._replace(colour=(red, green, blue))


class Surface(NamedTuple):
    """One entry of the surface table: what the renderer needs per surface number."""

    paint: Paint
    inverse_depth: tuple[float, float, float]  # 1/z = a * column + b * row + c
    light: float
    ground: bool
    offset: tuple[float, float]


class Canvas:
    """Map of surface numbers plus the table of surfaces; number 0 is the sky.

    Args:
        camera: the view.
        sun: unit vector towards the sun.
        direct: share of the light that comes from the sun; the rest comes from everywhere.
        rng: decides where surfaces read their texture.
    """

    def __init__(self, camera: Camera, sun: np.ndarray, direct: float, rng: np.random.Generator) -> None:
        self.camera, self.sun, self.direct = camera, sun, direct
        self.numbers = np.zeros((camera.height, camera.width), np.uint16)
        self.shade = np.zeros((camera.height, camera.width), np.uint8)
        self.surfaces: list[Surface] = []
        self._rng, self._sun = rng, tuple(float(value) for value in sun)

    def surface(self, paint: Paint, points: np.ndarray) -> int | None:
        """Enter the plane of (n, 3) ``points``; None when the camera sees it edge-on."""
        camera = self.camera
        normal = unit_normal(points)
        if normal is None:
            return None
        nx, ny, nz = normal
        x, y, z = points[0].tolist()
        distance = nx * x + ny * (y - camera.elevation) + nz * z
        if abs(distance) < 1e-4:
            return None
        a, b = nx / camera.focal / distance, -ny / camera.focal / distance
        c = nz / distance - a * camera.centre - b * camera.horizon
        sun = nx * self._sun[0] + ny * self._sun[1] + nz * self._sun[2]
        facing = -sun if distance > 0 else sun
        light = 1.0 if paint.glow else 1.0 - self.direct + self.direct * max(0.0, facing) * 1.3
        offset = (256 * self._rng.random(), 256 * self._rng.random())
        self.surfaces.append(Surface(paint, (a, b, c), light, abs(ny) > 0.9, offset))
        return len(self.surfaces)

    def polygon(self, points: np.ndarray | Sequence[Sequence[float]], paint: Paint, number: int | None = None) -> None:
        """Draw a planar polygon, (n, 3) street coordinates, over what is there already.

        ``number`` draws it as part of a surface entered before, for shapes that are not quite planar.
        """
        points = np.asarray(points, np.float64)
        clipped = clip_near(points)
        if len(clipped) < 3:
            return
        corners = self.camera.project(clipped)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if high[0] < 0 or high[1] < 0 or low[0] > self.camera.width or low[1] > self.camera.height:
            return
        number = self.surface(paint, points) if number is None else number
        if number is not None:
            cv2.fillPoly(self.numbers, [_fixed_point(corners)], number, lineType=cv2.LINE_8, shift=_SHIFT)

    def decals(self, quads: np.ndarray, paint: Paint) -> None:
        """Draw (n, m, 3) polygons that lie in one plane and do not overlap, as one surface."""
        quads = quads[(quads[..., 2] > NEAR).all(axis=1)]
        if not len(quads):
            return
        corners = self.camera.project(quads)
        low, high = corners.min(axis=1), corners.max(axis=1)
        seen = (high[:, 0] > 0) & (low[:, 0] < self.camera.width) & (high[:, 1] > 0)
        seen &= (low[:, 1] < self.camera.height) & ((high - low).max(axis=1) > 0.7)
        if not seen.any():
            return
        number = self.surface(paint, quads[0])
        if number is not None:
            shapes = list(_fixed_point(corners[seen]))
            cv2.fillPoly(self.numbers, shapes, number, lineType=cv2.LINE_8, shift=_SHIFT)

    def sees(self, x: float, z: float, radius: float) -> bool:
        """Tell whether something at (x, z) that reaches ``radius`` metres around may be in the picture."""
        if z + radius < NEAR:
            return False
        scale = self.camera.focal / max(z, NEAR)
        column, reach = self.camera.centre + x * scale, radius * scale
        return -reach < column < self.camera.width + reach

    def upright(self, x: float, z: float, outline: np.ndarray, paint: Paint) -> None:
        """Draw an (n, 2) outline in metres that stands at (x, z) on the road and faces the camera."""
        if z > NEAR:
            corners = self._facing(outline, x, z)
            cv2.fillPoly(self.numbers, [corners], self._facing_surface(paint, z), lineType=cv2.LINE_8, shift=_SHIFT)

    def discs(self, centres: np.ndarray, radii: np.ndarray, z: float, paint: Paint) -> None:
        """Draw discs that face the camera at depth z as one surface: (n, 2) centres (x, y) and n radii, metres."""
        if z < NEAR or not len(centres):
            return
        number = self._facing_surface(paint, z)
        places = self._facing(centres, 0.0, z).tolist()
        sizes = np.rint(radii * (self.camera.focal / z * (1 << _SHIFT))).astype(int).tolist()
        for place, size in zip(places, sizes, strict=True):
            cv2.circle(self.numbers, place, size, number, -1, cv2.LINE_8, _SHIFT)

    def _facing(self, points: np.ndarray, x: float, z: float) -> np.ndarray:
        """Project (n, 2) points (x, y) at depth z to fixed-point corners."""
        camera, scale = self.camera, self.camera.focal / z
        corners = points * (scale, -scale)
        corners += (camera.centre + x * scale, camera.horizon + camera.elevation * scale)
        return _fixed_point(corners)

    def _facing_surface(self, paint: Paint, z: float) -> int:
        """Enter a plane at depth z that faces the camera."""
        light = 1.0 if paint.glow else 1.0 - self.direct + self.direct * max(0.0, -self._sun[2]) * 1.3
        offset = (256 * self._rng.random(), 256 * self._rng.random())
        self.surfaces.append(Surface(paint, (0.0, 0.0, 1.0 / z), light, False, offset))
        return len(self.surfaces)

    def cast_shadow(self, points: np.ndarray) -> None:
        """Darken the ground inside the hull of (n, 3) points on the road."""
        clipped = points[points[:, 2] > NEAR]
        if len(clipped) >= 3:
            hull = cv2.convexHull(self.camera.project(clipped).clip(-_LIMIT, _LIMIT).astype(np.float32))
            cv2.fillConvexPoly(self.shade, _fixed_point(hull[:, 0]), 255, cv2.LINE_8, _SHIFT)

    def shadow_of(self, footprint: np.ndarray, height: float) -> None:
        """Darken the ground where an object of a given height on an (n, 2) footprint (x, z) keeps the sun off."""
        reach = -self.sun[[0, 2]] / max(self.sun[1], 0.2) * height
        ground = np.concatenate((footprint, footprint + reach))
        self.cast_shadow(np.column_stack((ground[:, 0], np.zeros(len(ground)), ground[:, 1])))


def unit_normal(points: np.ndarray) -> tuple[float, float, float] | None:
    """Normal of the plane through (n, 3) points, from three of them far apart; None when they lie on one line."""
    count = len(points)
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[[0, count // 3, 2 * count // 3]].tolist()
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = (nx * nx + ny * ny + nz * nz) ** 0.5
    return None if length < 1e-9 else (nx / length, ny / length, nz / length)


def _fixed_point(corners: np.ndarray) -> np.ndarray:
    """Corners in OpenCV's fixed point; its integers are pixel centres, ours are pixel edges, hence the half."""
    return np.rint(np.minimum(np.maximum(corners, -_LIMIT), _LIMIT) * (1 << _SHIFT) - (1 << _SHIFT) / 2).astype(
        np.int32
    )


def clip_near(points: np.ndarray) -> np.ndarray:
    """Cut the part of an (n, 3) polygon that is nearer than :data:`NEAR` (Sutherland and Hodgman, one plane)."""
    ahead = points[:, 2] > NEAR
    if ahead.all():
        return points
    kept: list[np.ndarray] = []
    for index, point in enumerate(points):
        previous = points[index - 1]
        if ahead[index] != ahead[index - 1]:
            share = (NEAR * 1.001 - previous[2]) / (point[2] - previous[2])
            kept.append(previous + share * (point - previous))
        if ahead[index]:
            kept.append(point)
    return np.array(kept) if kept else np.zeros((0, 3))
