"""Poles, lamps, traffic lights, traffic signs and bins of the generated street scenes."""

from __future__ import annotations

import numpy as np

from d2sm_plugin.scenes import colours
from d2sm_plugin.scenes.canvas import Canvas, Colour, Label, Paint
from d2sm_plugin.scenes.people import limb, oval

_OCTAGON = np.linspace(0, 2 * np.pi, 9)[:-1] + np.pi / 8
_RED, _BLUE = colours.rgb(190, 26, 30), colours.rgb(24, 70, 160)
_YELLOW, _GREEN = colours.rgb(236, 190, 30), colours.rgb(20, 110, 70)


def _pole_paint(rng: np.random.Generator) -> Paint:
    greys = (colours.rgb(130, 132, 132), colours.rgb(84, 88, 88), colours.rgb(60, 72, 64), colours.rgb(150, 146, 138))
    return Paint(Label.POLE, colours.pick(rng, greys), "soft", 0.1)


def _post(canvas: Canvas, x: float, z: float, height: float, width: float, paint: Paint, foot: float = 0.1) -> None:
    half = width / 2
    canvas.shadow_of(np.array(((-half, -half), (half, half))) + np.array((x, z)), height)
    canvas.upright(x, z, np.array(((-half, foot), (half, foot), (half * 0.8, height), (-half * 0.8, height))), paint)
    canvas.upright(
        x, z, np.array(((-half, foot), (-half * 0.2, foot), (-half * 0.2, height), (-half, height))), paint.tone(0.7)
    )


def draw_lamp(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    paint, height = _pole_paint(rng), rng.uniform(5.0, 8.5)
    reach = -np.sign(x) * rng.uniform(0.8, 2.2)
    _post(canvas, x, z, height, rng.uniform(0.14, 0.22), paint)
    canvas.upright(x, z, limb((0.0, height - 0.15), (reach, height + 0.3), 0.12, 0.09), paint)
    canvas.upright(x, z, limb((reach * 0.7, height + 0.24), (reach * 1.3, height + 0.34), 0.2, 0.13), paint.tone(1.3))


def draw_bollards(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A short row of bollards along the kerb."""
    paint = _pole_paint(rng)
    for index in reversed(range(int(rng.integers(2, 6)))):
        _post(canvas, x, z + 1.6 * index, 1.0, 0.16, paint)


def draw_utility_pole(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A wooden pole with cross-arms."""
    paint = Paint(Label.POLE, colours.pick(rng, colours.BARK), "planks", 0.12)
    height = rng.uniform(7.0, 9.0)
    _post(canvas, x, z, height, 0.3, paint)
    for level in (height - 0.5, height - 1.2):
        canvas.upright(x, z, limb((-0.9, level), (0.9, level), 0.14), paint)


def draw_traffic_light(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A signal on a pole, some with a second one on an arm over the road."""
    paint = _pole_paint(rng)
    arm = rng.uniform() < 0.35
    height = 5.6 if arm else 3.5
    _post(canvas, x, z, height, 0.18 if arm else 0.13, paint)
    state = int(rng.integers(3))
    if arm:
        reach = -np.sign(x) * rng.uniform(2.5, 4.0)
        canvas.upright(x, z, limb((0.0, height - 0.1), (reach, height), 0.13), paint)
        _signal(canvas, x + reach, z - 0.05, height - 1.0, state)
    _signal(canvas, x, z - 0.05, 2.45, state)


def _signal(canvas: Canvas, x: float, z: float, bottom: float, state: int) -> None:
    """Black box with three lamps, one of them lit: 0 red, 1 amber, 2 green."""
    label = Label.TRAFFIC_LIGHT
    box = np.array(((-0.21, 0.0), (0.21, 0.0), (0.21, 1.1), (-0.21, 1.1))) + np.array((0.0, bottom))
    canvas.upright(x, z, box, Paint(label, colours.rgb(24, 26, 26)))
    lit = (colours.rgb(255, 50, 40), colours.rgb(255, 190, 50), colours.rgb(60, 240, 150))
    dull = (colours.rgb(70, 28, 26), colours.rgb(74, 58, 26), colours.rgb(28, 62, 46))
    for index in range(3):
        colour = lit[index] if index == state else dull[index]
        lamp = oval(0.0, bottom + 0.9 - 0.34 * index, 0.135, 0.135)
        canvas.upright(x, z, lamp, Paint(label, colour, glow=True))


def _plate(canvas: Canvas, x: float, z: float, shapes: list[tuple[np.ndarray, Colour]]) -> None:
    for outline, colour in shapes:
        canvas.upright(x, z, outline, Paint(Label.TRAFFIC_SIGN, colour, "soft", 0.04))


def _disc(y: float, radius: float, rim: Colour, face: Colour, mark: Colour) -> list[tuple[np.ndarray, Colour]]:
    bar = np.array(((-0.6, -0.18), (0.6, -0.18), (0.6, 0.18), (-0.6, 0.18))) * radius + (0.0, y)
    return [(oval(0, y, radius, radius), rim), (oval(0, y, radius * 0.78, radius * 0.78), face), (bar, mark)]


def _triangle(y: float, radius: float) -> list[tuple[np.ndarray, Colour]]:
    corners = np.array(((-1.0, -0.62), (1.0, -0.62), (0.0, 1.05)))
    mark = limb((0.0, y - 0.25 * radius), (0.0, y + 0.45 * radius), 0.2 * radius)
    return [
        (corners * radius + (0.0, y), _RED),
        (corners * radius * 0.66 + (0.0, y), colours.WHITE),
        (mark, colours.DARK),
    ]


def _diamond(y: float, radius: float) -> list[tuple[np.ndarray, Colour]]:
    corners = np.array(((-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0)))
    return [(corners * radius + (0, y), colours.WHITE), (corners * radius * 0.75 + (0, y), _YELLOW)]


def _octagon(y: float, radius: float) -> list[tuple[np.ndarray, Colour]]:
    ring = np.stack((np.cos(_OCTAGON), np.sin(_OCTAGON)), axis=1)
    bar = np.array(((-0.7, -0.16), (0.7, -0.16), (0.7, 0.16), (-0.7, 0.16))) * radius + (0.0, y)
    return [(ring * radius * 1.05 + (0, y), colours.WHITE), (ring * radius * 0.93 + (0, y), _RED), (bar, colours.WHITE)]


def _panel(rng: np.random.Generator, y: float, width: float, height: float) -> list[tuple[np.ndarray, Colour]]:
    box = np.array(((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)))
    face = (_BLUE, _GREEN, _YELLOW, colours.WHITE)[int(rng.integers(4))]
    ink = colours.DARK if face in (_YELLOW, colours.WHITE) else colours.WHITE
    shapes = [(box * (width, height) + (0, y), ink), (box * (width - 0.08, height - 0.08) + (0, y), face)]
    for line in np.linspace(-0.28, 0.28, max(1, round(height / 0.35))):
        shapes.append((box * (width * rng.uniform(0.4, 0.75), 0.09) + (0, y + line * height), ink))
    return shapes


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pole with one or two traffic signs; some show their grey back."""
    paint, radius, y = _pole_paint(rng), rng.uniform(0.34, 0.48), rng.uniform(2.1, 2.6)
    _post(canvas, x, z, y + radius, 0.1, paint)
    kind = int(rng.integers(7))
    shapes = (
        lambda: _disc(y, radius, _RED, colours.WHITE, colours.DARK),
        lambda: _disc(y, radius, _RED, _RED, colours.WHITE),
        lambda: _disc(y, radius, colours.WHITE, _BLUE, colours.WHITE),
        lambda: _triangle(y, radius * 1.15),
        lambda: _diamond(y, radius * 1.1),
        lambda: _octagon(y, radius),
        lambda: _panel(rng, y, radius * 1.7, radius * 1.9),
    )[kind]()
    if rng.uniform() < 0.12:
        shapes = [(outline, colours.rgb(128, 130, 130)) for outline, _ in shapes[:1]]
    _plate(canvas, x, z - 0.05, shapes)
    if rng.uniform() < 0.4:
        _plate(canvas, x, z - 0.05, _panel(rng, y - radius - 0.28, radius * 1.6, 0.4))


def draw_direction_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A large direction sign on two posts beside the road."""
    paint, width, height = _pole_paint(rng), rng.uniform(1.6, 2.8), rng.uniform(1.0, 1.7)
    for post in (-0.35, 0.35):
        _post(canvas, x + post * width, z, 2.2 + height, 0.12, paint)
    _plate(canvas, x, z - 0.05, _panel(rng, 2.2 + height / 2, width, height))


def draw_bin(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A waste bin, a street cabinet or a bench: things without a class of their own (ignored)."""
    colour = colours.pick(rng, (colours.rgb(60, 80, 64), colours.rgb(90, 92, 94), colours.rgb(150, 90, 40)))
    paint = Paint(Label.IGNORE, colour, "soft", 0.08)
    if rng.uniform() < 0.3:
        for seat in ((-0.8, 0.4, 0.8, 0.52), (-0.8, 0.6, 0.8, 0.9), (-0.7, 0.1, -0.6, 0.5), (0.6, 0.1, 0.7, 0.5)):
            a, b, c, d = seat
            canvas.upright(x, z, np.array(((a, b), (c, b), (c, d), (a, d))), paint)
        return
    width, height = rng.uniform(0.4, 0.9), rng.uniform(0.8, 1.3)
    half = width / 2
    canvas.shadow_of(np.array(((-half, -0.2), (half, -0.2), (half, 0.2), (-half, 0.2))) + np.array((x, z)), height)
    canvas.upright(x, z, np.array(((-half, 0.1), (half, 0.1), (half, height), (-half, height))), paint)
    canvas.upright(
        x,
        z,
        np.array(((-half, height), (half, height), (half, height - 0.12), (-half, height - 0.12))),
        paint.tone(0.6),
    )
