"""Buildings, walls and fences of the generated street scenes."""

from __future__ import annotations

import numpy as np

from d2sm_plugin.scenes import colours
from d2sm_plugin.scenes.canvas import Canvas, Label, Paint


class Front:
    """An upright rectangle over a line on the ground, with its own coordinates.

    Args:
        start: (x, z) of one foot in metres.
        end: (x, z) of the other foot.
    """

    def __init__(self, start: np.ndarray, end: np.ndarray) -> None:
        self.start, self.end = start, end
        self.length = float(np.hypot(*(end - start)))

    def place(self, shapes: np.ndarray) -> np.ndarray:
        """Map (..., 2) coordinates (metres along the front, metres up) to street coordinates."""
        share = shapes[..., 0] / self.length
        points = np.empty((*shapes.shape[:-1], 3))
        points[..., 0], points[..., 2] = (self.start[k] + share * (self.end[k] - self.start[k]) for k in range(2))
        points[..., 1] = shapes[..., 1]
        return points

    def rectangle(self, low: float, high: float) -> np.ndarray:
        """(4, 3) corners of the strip between two heights over the whole length."""
        return self.place(np.array(((0, low), (self.length, low), (self.length, high), (0, high))))


def grid(columns: np.ndarray, rows: np.ndarray, width: float, height: float) -> np.ndarray:
    """(n, 4, 2) rectangles with the given lower left corners."""
    x, y = (values.ravel() for values in np.meshgrid(columns, rows))
    corners = np.array(((0, 0), (width, 0), (width, height), (0, height)))
    return np.stack((x, y), axis=1)[:, None, :] + corners


def draw_building(
    canvas: Canvas, rng: np.random.Generator, fronts: list[Front], height: float, modern: bool = False
) -> None:
    """A house with fronts towards the street (last in the list) and towards a gap, drawn in that order.

    Windows with frames, cornices, a ground floor with doors or shop windows; ``modern`` ones have bands of glass.
    """
    label = Label.BUILDING
    bricks = rng.uniform() < 0.35
    colour = colours.pick(rng, colours.BRICKS if bricks else colours.FACADES, 0.18)
    facade = Paint(label, colour, "bricks" if bricks else "plaster", 0.16 if bricks else 0.07, stains=0.05)
    if modern:
        facade = Paint(label, colours.pick(rng, (colours.STEEL, *colours.FACADES)), "concrete", 0.05, stains=0.04)
    trim = facade.tone(rng.choice((0.7, 1.35)))
    floor, bay = rng.uniform(2.9, 3.6), rng.uniform(1.9, 3.4)
    shop = rng.uniform() < 0.5
    base = floor * rng.uniform(1.1, 1.35) if shop else rng.uniform(0.6, 1.2)
    glass = Paint(label, colours.vary(rng, colours.GLASS, 0.35), "soft", 0.45, stains=0.3)
    frame = Paint(label, colours.pick(rng, (colours.WHITE, colours.WHITE, colours.DARK)), "soft", 0.05)
    share = (rng.uniform(0.72, 0.92) if modern else rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.62))
    balconies = not modern and rng.uniform() < 0.25
    for front in fronts:
        canvas.polygon(front.rectangle(0, height), facade)
        canvas.polygon(front.rectangle(0, 0.6), trim.tone(0.7))
        rows = np.arange(base + 0.3 * floor, height - 0.75 * floor, floor)
        count = max(1, int(front.length / bay))
        columns = (np.arange(count) + 0.5 - share[0] / 2) * front.length / count
        _windows(canvas, front, columns, rows, (share[0] * front.length / count, share[1] * floor), frame, glass)
        if balconies:
            wide = 1.3 * share[0] * bay
            slabs = grid(columns[::2] - 0.15 * share[0] * bay, rows - 0.35, wide, 0.9)
            canvas.decals(front.place(slabs), Paint(label, colours.vary(rng, colours.STEEL), "planks", 0.2))
        for level in np.arange(base, height - 1.0, floor * (1 if trim is facade else 2)):
            canvas.polygon(front.rectangle(level - 0.12, level + 0.12), trim)
        canvas.polygon(front.rectangle(height - 0.5, height), trim)
        _ground_floor(canvas, rng, front, base, shop, facade)


def _windows(
    canvas: Canvas, front: Front, columns: np.ndarray, rows: np.ndarray, size: tuple[float, float], frame: Paint,
    glass: Paint,
) -> None:  # fmt: skip
    """Frames, panes and the bar between two casements."""
    if not len(rows):
        return
    width, height = size
    canvas.decals(front.place(grid(columns - 0.1, rows - 0.12, width + 0.2, height + 0.22)), frame)
    pane = width / 2 - 0.04
    left, right = grid(columns, rows, pane, height), grid(columns + width - pane, rows, pane, height)
    canvas.decals(front.place(left), glass)
    canvas.decals(front.place(right), glass.tone(0.75))
    canvas.decals(front.place(grid(columns, rows + 0.8 * height, width, 0.2 * height)), glass.tone(0.5))


def _ground_floor(
    canvas: Canvas, rng: np.random.Generator, front: Front, base: float, shop: bool, facade: Paint
) -> None:
    label = Label.BUILDING
    dark = Paint(label, colours.vary(rng, colours.rgb(44, 46, 48), 0.3), "soft", 0.4, stains=0.3)
    if not shop:
        doors = grid(np.arange(rng.uniform(1, 3), front.length - 1.6, rng.uniform(6, 10)), np.array((0.05,)), 1.1, 2.3)
        if len(doors):
            wood = Paint(label, colours.pick(rng, (colours.vivid(rng), *colours.BARK)), "planks", 0.15)
            canvas.decals(front.place(doors - np.array((0.15, 0.0))), facade.tone(1.4))
            canvas.decals(front.place(doors * (1.0, 0.96)), wood)
        return
    count = max(1, int(front.length / rng.uniform(3.0, 5.0)))
    columns = (np.arange(count) + 0.08) * front.length / count
    canvas.decals(front.place(grid(columns, np.array((0.5,)), 0.84 * front.length / count, base - 1.5)), dark)
    sign = Paint(label, colours.vivid(rng), "soft", 0.06)
    canvas.polygon(front.rectangle(base - 0.95, base - 0.3), sign)
    letters = grid(columns + 0.1 * front.length / count, np.array((base - 0.78,)), 0.5 * front.length / count, 0.3)
    canvas.decals(front.place(letters), Paint(label, colours.WHITE))


def draw_pitched_house(
    canvas: Canvas, rng: np.random.Generator, front: Front, depth: np.ndarray, height: float
) -> None:
    """A small house: street front, gable towards the camera and the slope of the roof.

    Args:
        canvas: drawn on.
        rng: decides colours and windows.
        front: towards the street; its start is the nearer end.
        depth: (x, z) vector from the front to the back of the house.
        height: of the eaves, metres.
    """
    roof = Paint(Label.BUILDING, colours.pick(rng, colours.ROOFS), "bricks", 0.16, stains=0.1)
    ridge = height + rng.uniform(1.8, 3.0)
    middle_near, middle_far = front.start + depth / 2, front.end + depth / 2
    gable = Front(front.start, front.start + depth)
    walls = Paint(Label.BUILDING, colours.pick(rng, colours.FACADES), "plaster", 0.07, stains=0.05)
    tip = np.array((middle_near[0], ridge, middle_near[1]))
    foot = gable.rectangle(height - 0.05, height)
    canvas.polygon(np.array((foot[0], foot[1], tip)), walls)
    draw_building(canvas, rng, [gable, front], height)
    eaves = front.rectangle(height, height)[:2]
    top = np.array(((middle_far[0], ridge, middle_far[1]), (middle_near[0], ridge, middle_near[1])))
    canvas.polygon(np.concatenate((eaves, top)), roof)


def draw_wall(canvas: Canvas, rng: np.random.Generator, front: Front, height: float) -> None:
    """A free-standing wall of stone, brick or concrete with a coping."""
    texture = ("stones", "bricks", "concrete")[int(rng.integers(3))]
    colour = colours.pick(rng, colours.BRICKS if texture == "bricks" else colours.WALLS, 0.15)
    paint = Paint(Label.WALL, colour, texture, 0.2 if texture != "concrete" else 0.08, stains=0.12)
    canvas.polygon(front.rectangle(0, height), paint)
    canvas.polygon(front.rectangle(height - 0.16, height), paint.tone(1.3))


def draw_fence(canvas: Canvas, rng: np.random.Generator, front: Front, height: float) -> None:
    """A fence of boards, pickets or thin bars; the gaps of the latter two show what is behind."""
    kind = int(rng.integers(3))
    wood = colours.pick(rng, (*colours.BARK, colours.WHITE, colours.rgb(130, 104, 78)), 0.15)
    metal = colours.pick(rng, (colours.DARK, colours.STEEL, colours.rgb(46, 74, 58)))
    paint = Paint(Label.FENCE, metal if kind == 2 else wood, "planks", 0.2, stains=0.08)
    if kind == 0:
        canvas.polygon(front.rectangle(0.05, height), paint)
        canvas.polygon(front.rectangle(height - 0.3, height - 0.18), paint.tone(0.6))
        return
    step, width = (0.24, 0.15) if kind == 1 else (0.3, 0.09)
    bars = np.arange(0, front.length, step)
    canvas.decals(front.place(grid(bars, np.array((0.05,)), width, height - 0.05)), paint)
    for level in (0.25, height - 0.3):
        canvas.polygon(front.rectangle(level, level + 0.13), paint.tone(0.85))
    posts = grid(np.arange(0, front.length, 2.4), np.array((0.0,)), 0.16, height + 0.1)
    canvas.decals(front.place(posts), paint.tone(0.8))
