"""Trees, bushes and hedges of the generated street scenes."""

from __future__ import annotations

import numpy as np

from d2sm_plugin.scenes import colours
from d2sm_plugin.scenes.canvas import NEAR, Canvas, Colour, Label, Paint
from d2sm_plugin.scenes.people import limb


def _foliage(colour: Colour, factor: float) -> Paint:
    return Paint(Label.VEGETATION, colour, "leaves", 0.42, (1.0, 0.9, 0.55), stains=0.1).tone(factor)


def _clumps(
    canvas: Canvas, rng: np.random.Generator, centre: tuple[float, float], radii: tuple[float, float], z: float,
    colour: Colour,
) -> None:  # fmt: skip
    """A crown: many small discs in an ellipse, dark ones behind, lit ones towards the sun."""
    if z < NEAR:
        return
    pixels = canvas.camera.focal / z * max(radii)
    count = int(np.clip(pixels * 1.1, 14, 90))
    for share, factor, lift, size in ((1.0, 0.62, 0.0, 0.3), (0.75, 0.95, 0.1, 0.23), (0.45, 1.35, 0.28, 0.16)):
        number = max(4, int(count * share))
        angle, distance = rng.uniform(0, 2 * np.pi, number), np.sqrt(rng.uniform(0, 1, number))
        spread = 1.0 - 0.75 * size - 0.5 * lift
        sway = 0.5 * lift * np.sign(canvas.sun[0])
        x = centre[0] + radii[0] * (spread * distance * np.cos(angle) + sway)
        y = centre[1] + radii[1] * (spread * distance * np.sin(angle) + lift)
        sizes = min(radii) * size * rng.uniform(0.6, 1.4, number)
        canvas.discs(np.stack((x, y), axis=1), sizes, z, _foliage(colour, factor))


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, big: bool = False) -> None:
    """A broad-leaved tree or, at times, a conifer; trunk and crown are both vegetation."""
    colour = colours.pick(rng, colours.LEAVES, 0.2)
    height = rng.uniform(8, 14) if big else rng.uniform(4.5, 8)
    bark = Paint(Label.VEGETATION, colours.pick(rng, colours.BARK), "planks", 0.2)
    canvas.shadow_of(np.array(((-0.1, -0.1), (0.1, 0.1))) + np.array((x, z)), height * 0.5)
    if rng.uniform() < 0.15:
        canvas.upright(x, z, limb((0, 0), (0, 1.5), 0.3), bark)
        for level in np.linspace(0.0, 0.85, 5):
            wide, base = 0.2 * height * (1 - level), 1.0 + level * (height - 1.0)
            outline = np.array(((-wide, base), (wide, base), (0.0, base + 0.32 * height)))
            canvas.upright(x, z, outline, _foliage(colour, 0.6 + 0.4 * level))
        return
    crown = (rng.uniform(0.26, 0.36) * height, rng.uniform(0.27, 0.34) * height)
    _crown_shadow(canvas, x, z, height - crown[1], crown[0])
    lean = rng.normal(0, 0.15)
    canvas.upright(x, z, limb((0, 0), (lean, height * 0.55), 0.04 * height, 0.025 * height), bark)
    for branch in (-0.5, 0.45):
        start, end = (lean * 0.7, height * 0.38), (lean + branch * crown[0], height * 0.62)
        canvas.upright(x, z, limb(start, end, 0.016 * height, 0.01 * height), bark)
    _clumps(canvas, rng, (x + lean, height - crown[1]), crown, z, colour)


def _crown_shadow(canvas: Canvas, x: float, z: float, height: float, radius: float) -> None:
    reach = -canvas.sun[[0, 2]] / max(canvas.sun[1], 0.2) * height
    angle = np.linspace(0, 2 * np.pi, 12)
    ring = np.stack((radius * np.cos(angle), np.zeros(12), radius * np.sin(angle)), axis=1)
    canvas.cast_shadow(ring + np.array((x + reach[0], 0.0, z + reach[1])))


def draw_bush(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bush from knee height to man-high."""
    height = rng.uniform(0.6, 2.0)
    radii = (height * rng.uniform(0.5, 0.9), height * 0.55)
    _clumps(canvas, rng, (x, height * 0.45), radii, z, colours.pick(rng, colours.LEAVES, 0.25))


def draw_hedge(canvas: Canvas, rng: np.random.Generator, start: np.ndarray, end: np.ndarray, height: float) -> None:
    """A hedge between two (x, z) points: a leafy face with a ragged top."""
    colour = colours.pick(rng, colours.LEAVES, 0.2)
    steps = np.linspace(0, 1, 9)[:, None]
    line = start + (end - start) * steps
    top = height * rng.uniform(0.88, 1.1, len(line))
    base = np.column_stack((line[:, 0], np.zeros(len(line)), line[:, 1]))
    crest = np.column_stack((line[:, 0], top, line[:, 1]))
    canvas.polygon(np.concatenate((base, crest[::-1])), _foliage(colour, 0.9))
    for x, z in line[::-1]:
        size = rng.uniform(0.2, 0.3, 4) * height
        places = np.stack((x + rng.normal(0, 0.5, 4), height * rng.uniform(0.8, 1.0, 4)), axis=1)
        canvas.discs(places, size, float(z), _foliage(colour, 1.1))
