"""Cars, trucks, buses and trams of the generated street scenes, as prisms with windows, lights and wheels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from d2sm_plugin.scenes import colours
from d2sm_plugin.scenes.canvas import Canvas, Label, Paint, unit_normal

_CIRCLE = np.stack((np.cos(np.linspace(0, 2 * np.pi, 14)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 14)[:-1])), axis=1)


@dataclass(frozen=True)
class Pose:
    """Place and heading of a thing; heading 0 drives away from the camera, radians, clockwise."""

    x: float
    z: float
    heading: float

    def place(self, points: np.ndarray) -> np.ndarray:
        """Map (..., 3) points (right, up, forward) of the object to street coordinates."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        right, up, forward = points[..., 0], points[..., 1], points[..., 2]
        placed = np.empty(points.shape)
        placed[..., 0], placed[..., 1] = self.x + right * cos + forward * sin, up
        placed[..., 2] = self.z - right * sin + forward * cos
        return placed


@dataclass(frozen=True)
class Decal:
    """Polygons of one paint on a face: (k, m, 2) coordinates of that face."""

    shapes: np.ndarray
    paint: Paint


@dataclass
class Prism:
    """A side outline drawn out to a width.

    Attributes:
        outline: (n, 2) corners (forward, up) in metres.
        width: metres.
        side: paint of both sides.
        edges: paint of the face over each outline edge (corner i to i + 1).
        side_decals: shapes in (forward, up).
        edge_decals: per edge, shapes in (across in [-1, 1], along the edge in [0, 1]).
    """

    outline: np.ndarray
    width: float
    side: Paint
    edges: Sequence[Paint]
    side_decals: list[Decal] = field(default_factory=list)
    edge_decals: dict[int, list[Decal]] = field(default_factory=dict)

    def draw(self, canvas: Canvas, pose: Pose) -> None:
        """Draw the faces that the camera sees, the furthest first."""
        eye = np.array((0.0, canvas.camera.elevation, 0.0))
        middle = pose.place(np.array((0.0, self.outline[:, 1].mean(), self.outline[:, 0].mean())))
        seen = []
        for corners, paint, decals in self._faces():
            points = pose.place(corners)
            normal = np.array(unit_normal(points))
            centre = points.mean(axis=0)
            outward = normal if normal @ (centre - middle) > 0 else -normal
            if outward @ (eye - centre) > 0:
                seen.append((float(((centre - eye) ** 2).sum()), points, paint, decals))
        for _, points, paint, decals in sorted(seen, key=lambda face: -face[0]):
            canvas.polygon(points, paint)
            for shapes, decal_paint in decals:
                canvas.decals(pose.place(shapes), decal_paint)

    def _faces(self) -> list[tuple[np.ndarray, Paint, list[tuple[np.ndarray, Paint]]]]:
        """All faces as (corners, paint, decals) in object coordinates."""
        half = self.width / 2
        faces = []
        for side in (-half, half):
            decals = [(_on_side(decal.shapes, side), decal.paint) for decal in self.side_decals]
            faces.append((_on_side(self.outline, side), self.side, decals))
        for index, paint in enumerate(self.edges):
            start, end = self.outline[index], self.outline[(index + 1) % len(self.outline)]
            quad = np.array(((-1, 0), (1, 0), (1, 1), (-1, 1)), np.float64)
            decals = [(_on_edge(d.shapes, start, end, half), d.paint) for d in self.edge_decals.get(index, [])]
            faces.append((_on_edge(quad, start, end, half), paint, decals))
        return faces


def _on_side(shape: np.ndarray, side: float) -> np.ndarray:
    points = np.empty((*shape.shape[:-1], 3))
    points[..., 0], points[..., 1], points[..., 2] = side, shape[..., 1], shape[..., 0]
    return points


def _on_edge(shape: np.ndarray, start: np.ndarray, end: np.ndarray, half: float) -> np.ndarray:
    points = np.empty((*shape.shape[:-1], 3))
    points[..., 0] = shape[..., 0] * half
    points[..., 2], points[..., 1] = (start[k] + shape[..., 1] * (end[k] - start[k]) for k in range(2))
    return points


def boxes(*bounds: tuple[float, float, float, float]) -> np.ndarray:
    """(k, 4, 2) rectangles from (left, bottom, right, top)."""
    return np.array([((a, b), (c, b), (c, d), (a, d)) for a, b, c, d in bounds], np.float64)


def _wheels(label: Label, positions: Sequence[float], radius: float) -> list[Decal]:
    def discs(size: float) -> np.ndarray:
        return np.array([_CIRCLE * size + (position, radius) for position in positions])

    tyre, hub = Paint(label, colours.rgb(24, 24, 25)), Paint(label, colours.rgb(128, 130, 134), contrast=0.1)
    return [Decal(discs(radius), tyre), Decal(discs(radius * 0.55), hub)]


def _ends(label: Label, front: bool, low: float, high: float) -> list[Decal]:
    """Lamps, plate and bumper between two heights (shares of the end face)."""
    lamp = colours.rgb(232, 232, 220) if front else colours.rgb(190, 24, 20)
    plate = Paint(label, colours.rgb(226, 224, 206), glow=True)
    dark = Paint(label, colours.rgb(34, 34, 36))
    middle = (low + high) / 2
    trim = boxes((-0.5, middle - 0.1, 0.5, middle + 0.12)) if front else boxes((-0.98, 0.0, 0.98, 0.2))
    return [
        Decal(trim, dark),
        Decal(boxes((-0.95, low, -0.62, high), (0.62, low, 0.95, high)), Paint(label, lamp, glow=True)),
        Decal(boxes((-0.24, middle - 0.22, 0.24, middle)), plate),
    ]


def _shadow(canvas: Canvas, pose: Pose, length: float, width: float, height: float) -> None:
    corners = np.array(((-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1))) * (width / 2, 0, length / 2)
    ground = pose.place(corners)
    canvas.shadow_of(ground[:, [0, 2]], height)
    dark = Paint(Label.ROAD, colours.rgb(30, 30, 32))
    canvas.polygon(ground * (1, 0, 1), dark)


def draw_car(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """A saloon, hatchback or van."""
    label = Label.CAR
    body = Paint(label, colours.pick(rng, colours.CARS), "soft", 0.07, stains=0.03)
    glass = Paint(label, colours.vary(rng, colours.GLASS, 0.25), "soft", 0.25)
    tall = rng.uniform() < 0.3
    length, width = rng.uniform(3.8, 4.9), rng.uniform(1.72, 1.9)
    roof = rng.uniform(1.6, 1.95) if tall else rng.uniform(1.38, 1.52)
    belt, back, nose = 0.62 * roof, -length / 2, length / 2
    tail = back + (0.15 if tall else rng.choice((0.35, 0.95)))
    hood = nose - rng.uniform(0.95, 1.25)
    deck = back + (0.05 if tail - back < 0.5 else 0.45)
    outline = np.array(
        (
            (back, 0.26), (back, belt), (deck, belt + 0.05), (tail, roof - 0.04), (hood - 0.85, roof),
            (hood, belt + 0.06), (nose - 0.08, belt - 0.16), (nose, 0.28),
        )
    )  # fmt: skip
    edges = [body, body, glass, body, glass, body, body, body]
    sill, head = belt + 0.06, roof - 0.14
    rear_pane = ((tail + 0.12, sill), (-0.25, sill), (-0.25, head), (tail + 0.12, head))
    front_pane = ((-0.15, sill), (hood - 0.15, sill), (hood - 0.8, head), (-0.15, head))
    prism = Prism(outline, width, body.tone(0.9), edges)
    prism.side_decals = [
        Decal(np.array((rear_pane, front_pane)), glass),
        Decal(boxes((-0.02, 0.4, 0.0, belt)), body.tone(0.5)),
        *_wheels(label, (back + 0.8, nose - 0.85), 0.33),
    ]
    prism.edge_decals = {
        0: _ends(label, False, 0.55, 0.85),
        2: [Decal(boxes((-1, 0, -0.86, 1), (0.86, 0, 1, 1)), body)],
        4: [Decal(boxes((-1, 0, -0.88, 1), (0.88, 0, 1, 1)), body)],
        6: _ends(label, True, 0.15, 0.5),
    }
    _shadow(canvas, pose, length * 0.96, width * 0.96, roof)
    _tyres(canvas, label, pose, length, width)
    prism.draw(canvas, pose)


def _tyres(canvas: Canvas, label: Label, pose: Pose, length: float, width: float) -> None:
    """The wheels as seen from the front or from behind, below the body."""
    half, paint = width / 2, Paint(label, colours.rgb(22, 22, 23))
    for end in (-length / 2 + 0.5, length / 2 - 0.5):
        quads = boxes((-half, 0.0, -half + 0.22, 0.36), (half - 0.22, 0.0, half, 0.36))
        canvas.decals(pose.place(np.stack((quads[..., 0], quads[..., 1], np.full(quads.shape[:-1], end)), -1)), paint)


def _box(
    paint: Paint, glass: Paint, back: float, nose: float, low: float, high: float, width: float, slant: float = 0.0
) -> Prism:
    """A box with an optional slanted windscreen over its upper front."""
    knee = low + 0.42 * (high - low)
    outline = np.array(((back, low), (back, high), (nose - slant, high), (nose, knee), (nose, low)))
    return Prism(outline, width, paint, [paint, paint, glass, paint, paint])


def draw_truck(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """A lorry: driver's cab, cargo box or tarpaulin, dark chassis."""
    label = Label.TRUCK
    cab = Paint(label, colours.pick(rng, colours.CARS), "soft", 0.06)
    cargo_colour = colours.vivid(rng) if rng.uniform() < 0.5 else colours.pick(rng, (colours.WHITE, colours.STEEL))
    cargo = Paint(label, cargo_colour, "planks" if rng.uniform() < 0.5 else "soft", 0.06, stains=0.05)
    glass, dark = Paint(label, colours.GLASS, "soft", 0.2), Paint(label, colours.rgb(36, 36, 38))
    length, height, width = rng.uniform(6.0, 8.5), rng.uniform(2.8, 3.5), rng.uniform(2.3, 2.5)
    back, nose = -length / 2, length / 2
    chassis = _box(dark, dark, back, nose, 0.45, 1.0, width * 0.9)
    load = _box(cargo, cargo, back, nose - 2.0, 0.95, height, width)
    load.edge_decals = {
        0: [
            Decal(boxes((-0.02, 0.05, 0.02, 0.98)), cargo.tone(0.5)),
            Decal(boxes((-0.95, 0.0, -0.7, 0.07), (0.7, 0.0, 0.95, 0.07)), Paint(label, colours.rgb(200, 30, 24))),
        ]
    }
    stripe = 0.95 + 0.45 * (height - 0.95)
    load.side_decals = [Decal(boxes((back + 0.8, stripe, nose - 3.0, stripe + 0.7)), Paint(label, colours.vivid(rng)))]
    front = _box(cab, glass, nose - 1.8, nose, 0.5, min(height, 2.7), width * 0.97, 0.25)
    front.side_decals = [Decal(boxes((nose - 1.2, 1.5, nose - 0.3, 2.3)), glass)]
    front.edge_decals = {3: _ends(label, True, 0.15, 0.4)}
    _shadow(canvas, pose, length, width, height)
    chassis.side_decals = _wheels(label, (back + 1.2, back + 2.3, nose - 1.1), 0.5)
    parts = [chassis, load, front] if np.cos(pose.heading) < 0 else [front, chassis, load]
    for part in parts:
        part.draw(canvas, pose)
    _tyres(canvas, label, pose, length, width)


def draw_bus(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """A city bus: a band of windows, doors, a lit destination."""
    label = Label.BUS
    body = Paint(label, colours.pick(rng, (colours.vivid(rng), colours.rgb(204, 170, 30), colours.WHITE)), "soft", 0.05)
    glass, lit = Paint(label, colours.GLASS, "soft", 0.25), Paint(label, colours.rgb(250, 170, 60), glow=True)
    length, height, width = rng.uniform(9, 12), rng.uniform(2.9, 3.2), 2.5
    back, nose = -length / 2, length / 2
    prism = _box(body, glass, back, nose, 0.3, height, width, 0.12)
    panes = [(x, 1.35, x + 1.25, height - 0.45) for x in np.arange(back + 0.4, nose - 1.5, 1.4)]
    doors = [(x, 0.4, x + 1.1, height - 0.5) for x in (nose - 1.35, back + length * 0.45)]
    prism.side_decals = [
        Decal(boxes(*panes), glass),
        Decal(boxes((back, 0.35, nose, 0.6)), body.tone(0.45)),
        Decal(boxes(*doors), glass.tone(1.5)),
        *_wheels(label, (back + 2.4, nose - 2.4), 0.48),
    ]
    prism.edge_decals = {
        0: [Decal(boxes((-0.8, 0.5, 0.8, 0.85)), glass), *_ends(label, False, 0.15, 0.3)],
        2: [Decal(boxes((-0.7, 0.03, 0.7, 0.2)), lit)],
        3: _ends(label, True, 0.35, 0.6),
    }
    _shadow(canvas, pose, length, width, height)
    _tyres(canvas, label, pose, length, width)
    prism.draw(canvas, pose)


def draw_train(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """A tram of two or three cars: long, two-coloured, with a slanted nose at the front end and a pantograph."""
    label = Label.TRAIN
    upper = Paint(
        label, colours.pick(rng, (colours.WHITE, colours.rgb(214, 206, 170), colours.vivid(rng))), "soft", 0.04
    )
    lower = Paint(label, colours.vivid(rng), "soft", 0.05)
    glass, dark = Paint(label, colours.rgb(36, 42, 50), "soft", 0.25), Paint(label, colours.rgb(40, 40, 42))
    count, length, height, width = int(rng.integers(2, 4)), 9.5, 3.5, 2.5
    order = range(count) if np.cos(pose.heading) < 0 else reversed(range(count))
    for car in sorted(order, key=lambda k: -pose.place(np.array((0.0, 0.0, (count / 2 - k) * length)))[2]):
        nose = (count / 2 - car) * length
        back = nose - length + 0.35
        prism = _box(upper, glass, back, nose, 0.25, height, width, 0.5 if car == 0 else 0.0)
        panes = [(x, 1.5, x + 1.4, height - 0.6) for x in np.arange(back + 0.5, nose - 1.9, 1.6)]
        doors = [(x, 0.45, x + 1.2, height - 0.5) for x in (back + 2.0, nose - 3.2)]
        prism.side_decals = [
            Decal(boxes((back, 0.25, nose, 1.3)), lower),
            Decal(boxes(*panes), glass),
            Decal(boxes(*doors), lower.tone(0.7)),
            Decal(boxes((back, 0.1, nose, 0.42)), dark),
        ]
        prism.edge_decals = {
            0: [Decal(boxes((-1, 0, 1, 0.32)), lower), Decal(boxes((-0.8, 0.45, 0.8, 0.85)), glass)],
            3: [Decal(boxes((-1, 0, 1, 1)), lower), *_ends(label, True, 0.4, 0.6)],
        }
        prism.draw(canvas, pose)
        roof = np.array(((-0.5, height, nose - 4), (0.5, height, nose - 4), (0.5, height + 0.7, nose - 4.6)))
        canvas.polygon(pose.place(roof), dark)
    _shadow_train(canvas, pose, count * length, width, height)


def _shadow_train(canvas: Canvas, pose: Pose, length: float, width: float, height: float) -> None:
    corners = np.array(((-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1))) * (width / 2, 0, length / 2)
    canvas.shadow_of(pose.place(corners)[:, [0, 2]], height)
