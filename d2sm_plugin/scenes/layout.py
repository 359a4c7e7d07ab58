"""The ground of the generated street scenes: carriageway with markings, pavements, verges, a side street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2sm_plugin.scenes import colours
from d2sm_plugin.scenes.canvas import Canvas, Label, Paint

FAR = 400.0  # metres; where the ground ends
KERB = 0.12  # metres from road to pavement
_STATIONS = np.concatenate(([0.8], np.geomspace(2.0, FAR, 22)))


@dataclass(frozen=True)
class Theme:
    """Likelihood of things in one kind of street; shares of the frontage, the rest is open ground."""

    building: float
    house: float
    wall: float
    fence: float
    hedge: float
    trees: float  # street trees per 10 m and side
    verge: float  # probability of a green strip beside the road
    height: tuple[float, float]  # of buildings, metres


THEMES = {
    "centre": Theme(0.8, 0.0, 0.1, 0.08, 0.02, 0.25, 0.12, (10.0, 24.0)),
    "avenue": Theme(0.5, 0.08, 0.15, 0.15, 0.06, 0.6, 0.5, (8.0, 18.0)),
    "suburb": Theme(0.08, 0.34, 0.2, 0.22, 0.1, 0.4, 0.6, (6.0, 10.0)),
    "outskirts": Theme(0.12, 0.06, 0.3, 0.3, 0.06, 0.45, 0.8, (6.0, 14.0)),
}


@dataclass(frozen=True)
class Side:
    """One side of the street: signed distances (metres from the camera's line) of its strips, from the road out."""

    sign: int
    road: float  # edge of the carriageway
    verge: float  # outer edge of the green strip (equal to ``road`` where there is none)
    pavement: float  # outer edge of the pavement
    front: float  # line of the buildings


@dataclass(frozen=True)
class Street:
    """Plan of a street.

    Attributes:
        theme: see :data:`THEMES`.
        left: the left side.
        right: the right side.
        lanes: x of lane centres, left to right.
        lane_width: metres.
        oncoming: number of lanes, from the left, with oncoming traffic.
        bend: 1/metres; the street leaves the line of sight by ``bend * z**2``.
        crossing: z of the near edge of a side street, or None.
        crossing_width: metres.
    """

    theme: Theme
    left: Side
    right: Side
    lanes: tuple[float, ...]
    lane_width: float
    oncoming: int
    bend: float
    crossing: float | None
    crossing_width: float

    def shift(self, z: np.ndarray | float) -> np.ndarray | float:
        """Sideways shift of the street at depth z."""
        return self.bend * np.minimum(z, 120.0) ** 2

    def at(self, x: float, z: float) -> np.ndarray:
        """(x, z) on the ground for a distance from the straight line."""
        return np.array((x + self.shift(z), z))

    def crosses(self, z: float, margin: float = 0.0) -> bool:
        """Tell whether depth z lies in the side street."""
        if self.crossing is None:
            return False
        return self.crossing - margin < z < self.crossing + self.crossing_width + margin


def plan_street(rng: np.random.Generator) -> Street:
    """Draw a plan."""
    theme = THEMES[str(rng.choice(list(THEMES), p=(0.28, 0.24, 0.24, 0.24)))]
    count, width = int(rng.choice((2, 2, 3, 3, 4))), rng.uniform(3.0, 3.5)
    own_lane = int(rng.integers(count // 2, count))
    middle = rng.normal(0, 0.35)
    lanes = tuple(float((index - own_lane) * width + middle) for index in range(count))
    sides = []
    for sign, lane in ((-1, lanes[0]), (1, lanes[-1])):
        road = lane + sign * (width / 2 + (rng.uniform(2.0, 2.4) if rng.uniform() < 0.5 else rng.uniform(0.2, 0.6)))
        verge = road + sign * (rng.uniform(1.0, 3.0) if rng.uniform() < theme.verge else 0.0)
        pavement = verge + sign * rng.uniform(1.8, 4.2)
        front = pavement + sign * (0.0 if theme is THEMES["centre"] else float(rng.choice((0.0, 0.6, 2.5, 5.0))))
        sides.append(Side(sign, road, verge, pavement, front))
    bend = float(rng.choice((0.0, 1.0))) * rng.normal(0, 0.0012)
    crossing = rng.uniform(14, 34) if rng.uniform() < 0.5 else None
    return Street(theme, sides[0], sides[1], lanes, width, count // 2, bend, crossing, rng.uniform(7, 10))


def _strip(street: Street, inner: float, outer: float, height: float) -> np.ndarray:
    """Outline of a strip of ground along the whole street."""
    shift = street.shift(_STATIONS)
    level = np.full(len(_STATIONS), height)
    edges = [np.column_stack((x + shift, level, _STATIONS)) for x in (inner, outer)]
    return np.concatenate((edges[0], edges[1][::-1]))


def draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Draw everything that lies flat, and the kerbs."""
    grass = Paint(Label.TERRAIN, colours.pick(rng, colours.GRASS, 0.2), "grass", 0.2, (1.0, 0.95, 0.6), stains=0.12)
    built_up = street.theme.building > 0.5
    paving = Paint(Label.SIDEWALK, colours.pick(rng, colours.PAVING, 0.15), "slabs", 0.1, stains=0.06)
    if rng.uniform() < 0.25:
        paving = Paint(Label.SIDEWALK, colours.pick(rng, colours.ASPHALT, 0.1), "asphalt", 0.06, stains=0.06).tone(1.15)
    road = Paint(Label.ROAD, colours.pick(rng, colours.ASPHALT, 0.15), "asphalt", 0.1, stains=0.06)
    if rng.uniform() < 0.12:
        road = Paint(Label.ROAD, colours.pick(rng, colours.ASPHALT, 0.15), "cobbles", 0.16, stains=0.06)
    for side in (street.left, street.right):
        behind = paving if built_up and rng.uniform() < 0.6 else grass
        far_edge = side.sign * 150.0
        canvas.polygon(_strip(street, side.pavement, far_edge, KERB), behind)
        if side.verge != side.road:
            canvas.polygon(_strip(street, side.road, side.verge, KERB), grass)
        canvas.polygon(_strip(street, side.verge, side.pavement, KERB), paving)
    canvas.polygon(_strip(street, street.left.road, street.right.road, 0.0), road)
    for side in (street.left, street.right):
        _draw_kerb(canvas, street, side, paving)
    if street.crossing is not None:
        _draw_side_street(canvas, street, street.crossing, road)
    _draw_wear(canvas, rng, street, road)
    _draw_markings(canvas, rng, street)


def _draw_kerb(canvas: Canvas, street: Street, side: Side, paving: Paint) -> None:
    shift, level = street.shift(_STATIONS), np.zeros(len(_STATIONS))
    foot = np.column_stack((side.road + shift, level, _STATIONS))
    face = np.concatenate((foot, (foot + np.array((0.0, KERB, 0.0)))[::-1]))
    stone = Paint(Label.SIDEWALK, paving.colour, "soft", 0.08).tone(1.2)
    number = canvas.surface(stone.tone(0.6), _strip(street, side.road, side.road + side.sign, 0.0))
    canvas.polygon(face, stone, number)
    canvas.polygon(_strip(street, side.road, side.road + side.sign * 0.18, KERB), stone)


def _draw_side_street(canvas: Canvas, street: Street, near: float, road: Paint) -> None:
    far = near + street.crossing_width
    left, right = street.left.road - 120, street.right.road + 120
    canvas.polygon(np.array(((left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far))), road)


def _draw_wear(canvas: Canvas, rng: np.random.Generator, street: Street, road: Paint) -> None:
    """Repaired patches, tyre tracks, a coloured lane and manhole covers."""
    if rng.uniform() < 0.2:
        lane = street.lanes[int(rng.integers(len(street.lanes)))]
        coloured = Paint(Label.ROAD, colours.vary(rng, colours.rgb(140, 84, 74)), road.texture, road.contrast)
        canvas.polygon(_strip(street, lane - 0.45 * street.lane_width, lane + 0.45 * street.lane_width, 0.0), coloured)
    for lane in street.lanes:
        for track in (-0.8, 0.8):
            if rng.uniform() < 0.5:
                canvas.polygon(
                    _strip(street, lane + track - 0.3, lane + track + 0.3, 0.0), road.tone(rng.uniform(0.86, 0.96))
                )
    for _ in range(int(rng.integers(0, 6))):
        x, z = rng.uniform(street.left.road + 1, street.right.road - 1), rng.uniform(4, 30)
        wide, long = rng.uniform(0.4, 1.6), rng.uniform(0.8, 5.0)
        x += float(street.shift(z))
        corners = ((x - wide, 0, z), (x + wide, 0, z), (x + wide, 0, z + long), (x - wide, 0, z + long))
        canvas.polygon(np.array(corners), road.tone(rng.choice((0.75, 0.85, 1.15))))
    for _ in range(int(rng.integers(0, 3))):
        x, z = rng.uniform(street.left.road + 1, street.right.road - 1), rng.uniform(4, 18)
        angle = np.linspace(0, 2 * np.pi, 13)[:-1]
        cover = np.column_stack((x + 0.32 * np.cos(angle), np.zeros(12), z + 0.32 * np.sin(angle)))
        canvas.polygon(cover, Paint(Label.ROAD, colours.rgb(62, 60, 58), "slabs", 0.2))


def _dashes(street: Street, x: float, width: float, starts: np.ndarray, length: float) -> np.ndarray:
    """(n, 4, 3) marks along the street."""
    quads = np.zeros((len(starts), 4, 3))
    quads[:, :, 2] = np.stack((starts, starts, starts + length, starts + length), axis=1)
    quads[:, :, 0] = x + street.shift(quads[:, :, 2]) + np.array((-0.5, 0.5, 0.5, -0.5)) * width
    return quads


def _draw_markings(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    white = Paint(Label.ROAD, colours.vary(rng, colours.rgb(214, 214, 208), 0.1), "asphalt", 0.05, stains=0.12)
    centre = white
    if rng.uniform() < 0.25:
        centre = Paint(Label.ROAD, colours.rgb(206, 170, 60), "asphalt", 0.05, stains=0.12)
    phase, length, gap = rng.uniform(0, 6), rng.uniform(2.5, 4.0), rng.uniform(3.0, 7.0)
    clear = [] if street.crossing is None else [(street.crossing - 4, street.crossing + street.crossing_width + 3)]
    for index in range(1, len(street.lanes)):
        x = street.lanes[index] - street.lane_width / 2
        solid = index == street.oncoming and rng.uniform() < 0.6
        starts = np.arange(1.0, 120, 2.0) if solid else np.arange(1.0 + phase, 120, length + gap)
        size = 2.02 if solid else length
        keep = [not any(a - size < z < b for a, b in clear) for z in starts]
        lines = (x - 0.13, x + 0.13) if solid and rng.uniform() < 0.5 else (x,)
        for line in lines:
            canvas.decals(
                _dashes(street, line, 0.15, starts[keep], size), centre if index == street.oncoming else white
            )
    if rng.uniform() < 0.6:
        starts = np.arange(1.0, 120, 2.0)
        keep = [not any(a < z < b for a, b in clear) for z in starts]
        for x in (street.lanes[0] - street.lane_width / 2, street.lanes[-1] + street.lane_width / 2):
            canvas.decals(_dashes(street, x, 0.13, starts[keep], 2.02), white)
    if street.crossing is not None:
        if rng.uniform() < 0.7:
            _draw_zebra(canvas, street, street.crossing - 3.6, white)
        first = street.oncoming * street.lane_width
        start = street.lanes[0] - street.lane_width / 2 + first
        stop = np.array(
            ((start, 0, 0), (street.right.road - 0.3, 0, 0), (street.right.road - 0.3, 0, 0.4), (start, 0, 0.4))
        )
        z = street.crossing - 4.8
        canvas.polygon(stop + np.array((street.shift(z), 0, z)), white)
    elif rng.uniform() < 0.25:
        _draw_zebra(canvas, street, rng.uniform(7, 18), white)


def _draw_zebra(canvas: Canvas, street: Street, z: float, paint: Paint) -> None:
    bars = np.arange(street.left.road + 0.4, street.right.road - 0.6, 1.0)
    corners = np.array(((0, 0, 0), (0.5, 0, 0), (0.5, 0, 3.0), (0, 0, 3.0)))
    places = np.column_stack((bars + street.shift(z), np.zeros(len(bars)), np.full(len(bars), z)))
    canvas.decals(places[:, None, :] + corners, paint)


def draw_rails(canvas: Canvas, street: Street, x: float) -> None:
    """A pair of tram rails along the street."""
    steel = Paint(Label.ROAD, colours.rgb(62, 62, 64), "soft", 0.1)
    for offset in (-0.72, 0.72):
        canvas.polygon(_strip(street, x + offset - 0.06, x + offset + 0.06, 0.0), steel)
