"""Generated street scenes with exact labels and depths: the images and labels that need no download.

Every scene follows from its seed alone. The ranges below keep what a network was trained on apart from what it is
judged on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2sm_plugin.errors import DataError
from d2sm_plugin.scenes.canvas import SUPERSAMPLING, Camera, Canvas
from d2sm_plugin.scenes.layout import draw_ground, plan_street
from d2sm_plugin.scenes.render import Weather, render
from d2sm_plugin.scenes.traffic import (
    Cast,
    cast_frontage,
    cast_furniture,
    cast_people,
    cast_vehicles,
    draw_backdrop,
)

SEGMENTOR_SEEDS = range(100_000, 200_000)  # the shipped segmentation network is trained on scenes from here
TRAIN_SEEDS = range(200_000, 300_000)  # restoration networks are trained on scenes from here
VAL_SEEDS = range(300_000, 310_000)  # everything is judged on scenes from here

_SMALLEST = 16  # pixels


@dataclass(frozen=True)
class StreetScene:
    """A picture of a street and what is in it.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        label: uint8 (H, W), Cityscapes train ids 0 to 18, 255 for things without a class.
        depth: float32 (H, W), metres along the optical axis; 1000 in the sky.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray


def render_scene(seed: int, size: tuple[int, int] = (192, 384)) -> StreetScene:
    """Render the scene of a seed.

    Args:
        seed: any non-negative integer; equal seeds and sizes give equal scenes.
        size: height and width in pixels, at least 16 each; the view is composed for about 1 : 2.

    Raises:
        DataError: when the seed is negative or the size too small.
    """
    height, width = size
    if seed < 0:
        raise DataError(f"street scene {seed}: expected a seed of 0 or more")
    if min(height, width) < _SMALLEST:
        raise DataError(f"street scene of {height}x{width} pixels: expected at least {_SMALLEST} in both directions")
    rng = np.random.default_rng(seed)
    street = plan_street(rng)
    camera = _camera(rng, height, width)
    weather, sun, direct = _weather(rng)
    canvas = Canvas(camera, sun, direct, rng)
    draw_ground(canvas, rng, street)
    draw_backdrop(canvas, rng, street)
    cast = Cast(canvas, rng, street)
    for side in (street.left, street.right):
        cast_frontage(cast, side)
        cast_furniture(cast, side)
    cast_vehicles(cast)
    cast_people(cast)
    cast.draw()
    return StreetScene(*render(canvas, weather, (height, width), rng.uniform(0, 256, 2)))


def _camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """A camera behind a windscreen or on a roof, that looks roughly along the street."""
    focal = rng.uniform(1.45, 1.75) * np.sqrt(height * width / 2)
    centre = width * (0.5 + rng.uniform(-0.1, 0.1))
    horizon = height * rng.uniform(0.42, 0.52)
    focal, centre, horizon = (float(value) * SUPERSAMPLING for value in (focal, centre, horizon))
    return Camera(width * SUPERSAMPLING, height * SUPERSAMPLING, focal, centre, horizon, rng.uniform(1.3, 2.0))


def _weather(rng: np.random.Generator) -> tuple[Weather, np.ndarray, float]:
    """Weather, unit vector towards the sun and the sun's share of the light."""
    overcast = rng.uniform() < 0.4
    warmth = rng.uniform(0, 1)
    azimuth, rise = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 1.1)
    sun = np.array((np.sin(azimuth) * np.cos(rise), np.sin(rise), -np.cos(azimuth) * np.cos(rise)))
    if overcast:
        grey = rng.uniform(0.55, 0.9)
        zenith, haze = np.array((0.88, 0.95, 1.05)) * grey * 0.8, np.array((0.96, 0.98, 1.0)) * grey
        cloud, clouds, direct = np.array((0.9, 0.92, 0.95)) * grey, rng.uniform(0.6, 1.0), rng.uniform(0.1, 0.3)
    else:
        zenith = np.array((0.10, 0.24, 0.58)) * rng.uniform(0.8, 1.3)
        haze = np.array((0.66 + 0.2 * warmth, 0.76, 0.9 - 0.2 * warmth)) * rng.uniform(0.8, 1.0)
        cloud, clouds, direct = np.array((1.0, 0.98, 0.95)), rng.uniform(0.1, 0.7), rng.uniform(0.45, 0.7)
    exposure = rng.uniform(0.85, 1.5)
    balance = np.array((1 + 0.08 * (warmth - 0.5), 1.0, 1 - 0.1 * (warmth - 0.5)))
    weather = Weather(
        zenith=zenith,
        haze=haze,
        visibility=rng.uniform(150, 700),
        clouds=clouds,
        cloud=cloud,
        shadow=1.0 - 0.85 * direct,
        gain=exposure * balance,
        gamma=rng.uniform(2.0, 2.4),
        blur=rng.uniform(0.3, 0.5),
    )
    return weather, sun, direct
