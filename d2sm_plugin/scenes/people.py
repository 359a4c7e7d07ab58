"""Persons, riders, bicycles and motorcycles of the generated street scenes, as upright cut-outs."""

from __future__ import annotations

import numpy as np

from d2sm_plugin.scenes import colours
from d2sm_plugin.scenes.canvas import Canvas, Colour, Label, Paint

_ANGLES = np.linspace(0, 2 * np.pi, 13)[:-1]


def limb(start: tuple[float, float], end: tuple[float, float], wide: float, narrow: float | None = None) -> np.ndarray:
    """(4, 2) outline of a straight limb with the given widths at both ends, metres."""
    a, b = np.array(start), np.array(end)
    along = b - a
    across = np.array((-along[1], along[0])) / max(float(np.hypot(*along)), 1e-6) / 2
    narrow = wide if narrow is None else narrow
    return np.array((a + across * wide, b + across * narrow, b - across * narrow, a - across * wide))


def oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """(12, 2) outline of an ellipse."""
    return np.stack((x + rx * np.cos(_ANGLES), y + ry * np.sin(_ANGLES)), axis=1)


class _Figure:
    """Draws outlines of one figure at a place on the road, scaled in height and squeezed in width."""

    def __init__(self, canvas: Canvas, x: float, z: float, scale: float, squeeze: float) -> None:
        self.canvas, self.x, self.z = canvas, x, z
        self.factors = np.array((scale * squeeze, scale))

    def draw(self, outline: np.ndarray, label: Label, colour: Colour, texture: str = "soft") -> None:
        self.canvas.upright(self.x, self.z, outline * self.factors, Paint(label, colour, texture, 0.12))

    def shadow(self, half: float, height: float) -> None:
        half *= self.factors[0]
        corners = ((-half, -0.12), (half, -0.12), (half, 0.12), (-half, 0.12))
        self.canvas.shadow_of(np.array(corners) + np.array((self.x, self.z)), height * self.factors[1])


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pedestrian, standing or walking; some wear coats, skirts, bags or hats, some are children."""
    height = rng.uniform(1.05, 1.35) if rng.uniform() < 0.12 else rng.uniform(1.58, 1.92)
    figure, label = _Figure(canvas, x, z, height / 1.75, rng.uniform(0.85, 1.15)), Label.PERSON
    top, trousers = colours.pick(rng, colours.CLOTHES, 0.25), colours.pick(rng, colours.CLOTHES[:6], 0.25)
    skin, hair = colours.pick(rng, colours.SKIN), colours.pick(rng, colours.HAIR)
    stride, swing = rng.uniform(0, 0.28), rng.uniform(-0.2, 0.2)
    hem = rng.choice((0.82, 0.82, 0.6, 0.5))
    figure.shadow(0.22, 1.75)
    figure.draw(limb((-0.2, 1.38), (-0.27 - swing, 0.86), 0.12, 0.08), label, colours.scaled(top, 0.7))
    for side, foot in ((-0.09, -0.07 - stride), (0.09, 0.07 + stride)):
        figure.draw(limb((side, 0.88), (foot, 0.04), 0.17, 0.11), label, trousers)
        figure.draw(limb((foot - 0.06, 0.035), (foot + 0.1, 0.035), 0.08), label, colours.rgb(40, 34, 32))
    torso = np.array(
        ((-0.16, 1.44), (0.16, 1.44), (0.23, 1.34), (0.19, 0.95), (0.2, hem), (-0.2, hem), (-0.19, 0.95), (-0.23, 1.34))
    )
    figure.draw(torso, label, top)
    figure.draw(limb((0.2, 1.38), (0.27 + swing, 0.86), 0.12, 0.08), label, colours.scaled(top, 0.82))
    figure.draw(oval(0.27 + swing, 0.83, 0.05, 0.06), label, skin)
    if rng.uniform() < 0.35:
        bag = colours.pick(rng, colours.CLOTHES, 0.3)
        if rng.uniform() < 0.5:
            figure.draw(oval(0, 1.2, 0.16, 0.22), label, bag)
        else:
            figure.draw(limb((0.32, 0.75), (0.32, 0.45), 0.26), label, bag)
    figure.draw(limb((0, 1.4), (0, 1.55), 0.1), label, skin)
    figure.draw(oval(0, 1.62, 0.095, 0.125), label, skin)
    figure.draw(np.concatenate((oval(0, 1.66, 0.105, 0.1)[:7], ((-0.1, 1.6), (0.1, 1.63)))), label, hair)


def _wheel(figure: _Figure, label: Label, x: float, radius: float, tyre: float) -> None:
    figure.draw(oval(x, radius, radius, radius), label, colours.rgb(26, 26, 28))
    inner = radius - tyre
    figure.draw(oval(x, radius, inner, inner), label, colours.rgb(104, 104, 104))
    for angle in (0.3, 1.35, 2.4):
        dx, dy = inner * np.cos(angle), inner * np.sin(angle)
        figure.draw(limb((x - dx, radius - dy), (x + dx, radius + dy), 0.035), label, colours.rgb(170, 170, 168))


def draw_bicycle(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float, ridden: bool = False
) -> None:
    """A bicycle, parked or with its rider; ``heading`` as in :class:`d2sm_plugin.scenes.vehicles.Pose`."""
    side = 1.0 if np.sin(heading) >= 0 else -1.0
    figure = _Figure(canvas, x, z, 1.0, side * max(abs(np.sin(heading)), 0.24))
    label, frame = Label.BICYCLE, colours.vivid(rng) if rng.uniform() < 0.6 else colours.DARK
    figure.shadow(0.8, 1.7 if ridden else 0.9)
    for wheel in (-0.52, 0.52):
        _wheel(figure, label, wheel, 0.34, 0.06)
    crank, saddle, head, rear, front = (-0.08, 0.3), (-0.22, 0.86), (0.38, 0.84), (-0.52, 0.34), (0.52, 0.34)
    for start, end in ((rear, crank), (rear, saddle), (crank, saddle), (crank, head), (saddle, head), (front, head)):
        figure.draw(limb(start, end, 0.065), label, frame)
    figure.draw(limb((0.38, 0.84), (0.36, 1.02), 0.05), label, colours.STEEL)
    figure.draw(limb((0.26, 1.03), (0.46, 1.03), 0.06), label, colours.DARK)
    figure.draw(limb((-0.36, 0.92), (-0.1, 0.9), 0.1), label, colours.DARK)
    _handlebar(figure, label, 1.02, abs(np.sin(heading)))
    if ridden:
        _rider(canvas, rng, figure, saddle=(-0.22, 0.94), grip=(0.34, 1.05), foot=(-0.05, 0.16))


def _handlebar(figure: _Figure, label: Label, height: float, turned: float) -> None:
    """The bar as seen along the road, where it is the widest part."""
    if turned < 0.6:
        half = 0.27 / abs(figure.factors[0])
        figure.draw(limb((-half, height), (half, height), 0.05), label, colours.DARK)


def _rider(
    canvas: Canvas,
    rng: np.random.Generator,
    figure: _Figure,
    saddle: tuple[float, float],
    grip: tuple[float, float],
    foot: tuple[float, float],
) -> None:
    """A person who sits on two wheels; along the road the body is wider than the machine."""
    label = Label.RIDER
    sign = 1.0 if figure.factors[0] >= 0 else -1.0
    wide = 1.0 / max(abs(figure.factors[0]), 0.55)  # limbs keep their width when the figure is squeezed
    body = _Figure(canvas, figure.x, figure.z - 0.02, 1.0, sign * max(abs(float(figure.factors[0])), 0.55))
    top, trousers = colours.pick(rng, colours.CLOTHES, 0.3), colours.pick(rng, colours.CLOTHES[:6], 0.25)
    if rng.uniform() < 0.3:
        top = colours.vivid(rng)
    skin = colours.pick(rng, colours.SKIN)
    shoulder = (saddle[0] + 0.2, saddle[1] + 0.55)
    knee = (saddle[0] + 0.38, saddle[1] - 0.22)
    along = abs(float(figure.factors[0])) < 0.6
    for shift in (-0.16, 0.16) if along else (-0.06, 0.0):
        joint = (knee[0] * (0.2 if along else 1.0) + shift, knee[1] + 2 * shift * (0 if along else 1))
        end = (foot[0] + shift * (1.0 if along else 2.0), foot[1] + abs(shift))
        figure_hip = (saddle[0] * (0.3 if along else 1.0) + shift, saddle[1])
        body.draw(limb(figure_hip, joint, 0.19 * wide, 0.15 * wide), label, trousers)
        body.draw(limb(joint, end, 0.14 * wide, 0.1 * wide), label, trousers)
        body.draw(oval(end[0], end[1], 0.08 * wide, 0.06), label, colours.DARK)
    centre = shoulder[0] * (0.25 if along else 1.0)
    hip = saddle[0] * (0.3 if along else 1.0)
    body.draw(limb((hip, saddle[1] - 0.06), (centre, shoulder[1] + 0.05), 0.3 * wide, 0.38 * wide), label, top)
    sleeve = colours.scaled(top, 0.78)
    if along:
        for arm in (-1, 1):
            body.draw(limb((centre + arm * 0.2 * wide, shoulder[1]), (arm * 0.3 * wide, grip[1]), 0.12), label, sleeve)
    else:
        body.draw(limb(shoulder, grip, 0.12, 0.09), label, sleeve)
    crown = (centre + (0.0 if along else 0.06), shoulder[1] + 0.21)
    body.draw(oval(crown[0], crown[1], 0.1 * wide, 0.13), label, skin)
    helmet = colours.vivid(rng) if rng.uniform() < 0.5 else colours.pick(rng, colours.HAIR)
    body.draw(oval(crown[0], crown[1] + 0.04, 0.12 * wide, 0.12)[:7], label, helmet)


def draw_motorcycle(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float, ridden: bool = False
) -> None:
    """A motorcycle or scooter, parked or with its rider."""
    side = 1.0 if np.sin(heading) >= 0 else -1.0
    figure = _Figure(canvas, x, z, 1.0, side * max(abs(np.sin(heading)), 0.36))
    label, body = Label.MOTORCYCLE, colours.pick(rng, colours.CARS, 0.25)
    dark = colours.rgb(34, 34, 36)
    figure.shadow(1.0, 1.7 if ridden else 1.0)
    for wheel in (-0.68, 0.7):
        figure.draw(oval(wheel, 0.31, 0.31, 0.31), label, colours.rgb(24, 24, 25))
        figure.draw(oval(wheel, 0.31, 0.15, 0.15), label, colours.rgb(130, 130, 132))
    figure.draw(np.array(((-0.5, 0.25), (0.35, 0.22), (0.42, 0.6), (-0.45, 0.62))), label, colours.rgb(74, 74, 76))
    figure.draw(limb((0.7, 0.31), (0.45, 0.98), 0.09), label, colours.STEEL)
    figure.draw(
        np.array(((-0.9, 0.72), (-0.3, 0.56), (0.5, 0.62), (0.48, 0.98), (0.05, 0.98), (-0.9, 0.86))), label, body
    )
    figure.draw(limb((-0.85, 0.88), (0.05, 0.86), 0.13), label, dark)
    figure.draw(oval(0.56, 0.92, 0.11, 0.12), label, colours.rgb(220, 220, 210))
    figure.draw(limb((0.4, 1.0), (0.3, 1.12), 0.07), label, dark)
    _handlebar(figure, label, 1.08, abs(np.sin(heading)))
    if ridden:
        _rider(canvas, rng, figure, saddle=(-0.3, 0.9), grip=(0.34, 1.1), foot=(0.0, 0.32))
