"""Colours of the generated street scenes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from d2sm_plugin.scenes.canvas import Colour


def rgb(red: float, green: float, blue: float) -> Colour:
    """A colour as seen on a screen, 0 to 255 per channel, as linear RGB in [0, 1]."""
    return (red / 255) ** 2.2, (green / 255) ** 2.2, (blue / 255) ** 2.2


def vary(rng: np.random.Generator, colour: Colour, spread: float = 0.12) -> Colour:
    """The colour with a random brightness and slightly random channels."""
    factors = np.exp(rng.normal(0, spread)) * np.exp(rng.normal(0, spread * 0.3, 3))
    red, green, blue = np.clip(np.array(colour) * factors, 0.002, 1.0)
    return float(red), float(green), float(blue)


def scaled(colour: Colour, factor: float) -> Colour:
    """The colour at another brightness."""
    red, green, blue = colour
    return factor * red, factor * green, factor * blue


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.12) -> Colour:
    """One of the colours, varied."""
    return vary(rng, colours[int(rng.integers(len(colours)))], spread)


def vivid(rng: np.random.Generator) -> Colour:
    """Any strong colour, for shop signs, clothes and trams."""
    return rgb(*(255 * c for c in colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.45, 0.95), rng.uniform(0.4, 0.95))))


DARK = rgb(28, 28, 30)
GLASS = rgb(52, 62, 72)
STEEL = rgb(120, 124, 126)
WHITE = rgb(235, 235, 230)

ASPHALT = (rgb(92, 92, 94), rgb(108, 106, 104), rgb(78, 79, 82), rgb(120, 118, 116))
PAVING = (rgb(150, 146, 140), rgb(132, 130, 128), rgb(160, 150, 140), rgb(118, 114, 112), rgb(150, 128, 118))
GRASS = (rgb(96, 118, 58), rgb(110, 122, 70), rgb(84, 108, 50), rgb(128, 124, 80), rgb(120, 104, 78))
LEAVES = (rgb(62, 92, 44), rgb(78, 104, 48), rgb(50, 82, 46), rgb(96, 110, 52), rgb(110, 98, 46), rgb(70, 88, 60))
BARK = (rgb(84, 70, 58), rgb(98, 88, 78), rgb(70, 62, 56))
FACADES = (
    rgb(206, 190, 160),
    rgb(188, 170, 142),
    rgb(214, 206, 192),
    rgb(170, 160, 152),
    rgb(196, 168, 130),
    rgb(178, 186, 190),
    rgb(150, 140, 130),
    rgb(204, 182, 174),
    rgb(222, 214, 178),
)
BRICKS = (rgb(150, 88, 70), rgb(132, 80, 66), rgb(164, 110, 84), rgb(120, 90, 80), rgb(170, 140, 110))
WALLS = (rgb(150, 146, 140), rgb(128, 122, 116), rgb(164, 156, 144), rgb(140, 110, 92))
ROOFS = (rgb(126, 76, 62), rgb(86, 82, 84), rgb(110, 70, 58), rgb(96, 92, 90))
CARS = (
    rgb(30, 30, 32),
    rgb(190, 192, 196),
    rgb(228, 228, 228),
    rgb(110, 114, 120),
    rgb(150, 28, 30),
    rgb(36, 58, 110),
    rgb(70, 74, 80),
    rgb(52, 80, 70),
    rgb(160, 140, 110),
    rgb(204, 160, 40),
)
CLOTHES = (
    rgb(36, 38, 46),
    rgb(60, 66, 90),
    rgb(120, 30, 36),
    rgb(200, 196, 190),
    rgb(90, 84, 76),
    rgb(40, 70, 60),
    rgb(186, 140, 60),
    rgb(70, 90, 140),
    rgb(150, 150, 154),
)
SKIN = (rgb(226, 180, 152), rgb(200, 150, 120), rgb(150, 104, 80), rgb(96, 66, 50))
HAIR = (rgb(40, 30, 26), rgb(90, 66, 44), rgb(150, 120, 80), rgb(120, 116, 112))
