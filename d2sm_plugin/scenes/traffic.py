"""Things that stand and move in a generated street: frontage, greenery, furniture, vehicles and people, far to near."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from d2sm_plugin.scenes import buildings, furniture, people, plants, vehicles
from d2sm_plugin.scenes.canvas import Canvas, Label, Paint
from d2sm_plugin.scenes.colours import FACADES, LEAVES, pick
from d2sm_plugin.scenes.layout import Side, Street, draw_rails

_END = 115.0  # metres; last frontage, the backdrop stands behind


class Cast:
    """Collection of what is to be drawn, from far to near."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
        self.canvas, self.rng, self.street = canvas, rng, street
        self._acts: list[tuple[float, Callable[[], None]]] = []

    def add(self, z: float, draw: Callable[[], None]) -> None:
        """Enter something whose farthest point is at depth z."""
        self._acts.append((z, draw))

    def place(self, draw: Callable[[Canvas, np.random.Generator, float, float], None], x: float, z: float) -> None:
        """Enter something that stands at one point, given relative to the line of the street."""
        place = float(x + self.street.shift(z))
        if self.canvas.sees(place, z, 5.0):
            self.add(z, lambda: draw(self.canvas, self.rng, place, z))

    def drive(self, draw: Callable[..., None], x: float, z: float, heading: float) -> None:
        """Enter a vehicle; heading is relative to the direction of the street."""
        turn = float(np.arctan(2 * self.street.bend * min(z, 120.0)))
        pose = vehicles.Pose(float(x + self.street.shift(z)), z, heading + turn)
        if self.canvas.sees(pose.x, z, 16.0):
            self.add(z, lambda: draw(self.canvas, self.rng, pose))

    def draw(self) -> None:
        """Draw everything."""
        for _, draw in sorted(self._acts, key=lambda act: -act[0]):
            draw()


def draw_backdrop(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Houses and trees that close the view at the end of the street."""
    for z, low, high in ((230.0, 10.0, 30.0), (160.0, 6.0, 20.0)):
        x = -170.0
        while x < 170.0:
            width, height = rng.uniform(8, 26), rng.uniform(low, high)
            if rng.uniform() < 0.35 + 0.6 * street.theme.building:
                paint = Paint(Label.BUILDING, pick(rng, FACADES, 0.2), "concrete", 0.1, stains=0.1)
                box = np.array(((0, 0), (width, 0), (width, height), (0, height)))
                canvas.upright(x, z, box, paint)
                columns, rows = np.arange(1.5, width - 2, 3.5), np.arange(2, height - 2, 3.4)
                front = buildings.Front(np.array((x, z)), np.array((x + width, z)))
                shapes = front.place(buildings.grid(columns, rows, 1.8, 1.7))
                if len(shapes):
                    canvas.decals(shapes, paint.tone(0.3))
            else:
                leaves = Paint(Label.VEGETATION, pick(rng, LEAVES, 0.2), "leaves", 0.3)
                crowns = np.column_stack((x + rng.uniform(0, width, 12), rng.uniform(0.1, 0.45, 12) * height))
                canvas.discs(crowns, rng.uniform(2, 5, 12), z, leaves)
            x += width * rng.uniform(0.7, 1.0)


def cast_frontage(cast: Cast, side: Side) -> None:
    """Fill one side of the street with houses, walls, fences, hedges and gardens."""
    rng, street, theme = cast.rng, cast.street, cast.street.theme
    shares = np.array((theme.building, theme.house, theme.wall, theme.fence, theme.hedge))
    shares = np.append(shares, max(0.0, 1.0 - shares.sum()))
    z = rng.uniform(1.0, 6.0)
    while z < _END:
        length = rng.uniform(7, 20)
        if street.crossing is not None:
            if street.crosses(z, 3.0):
                z = street.crossing + street.crossing_width + 3.0
            elif z < street.crossing - 3.0 < z + length:
                length = street.crossing - 3.0 - z
        if length < 2.5:
            z += length + 0.1
            continue
        kind = int(rng.choice(len(shares), p=shares / shares.sum()))
        _cast_plot(cast, side, z, z + length, kind)
        z += length + (rng.uniform(0, 3) if kind else 0.0)


def _cast_plot(cast: Cast, side: Side, near: float, far: float, kind: int) -> None:
    """One plot of the frontage: 0 building, 1 house, 2 wall, 3 fence, 4 hedge, 5 open ground."""
    canvas, rng, street = cast.canvas, cast.rng, cast.street
    height = rng.uniform(*street.theme.height)
    outward = np.array((side.sign * rng.uniform(9, 14), 0.0))
    if kind == 0:
        start, end = street.at(side.front, near), street.at(side.front, far)
        fronts = [buildings.Front(start, start + outward), buildings.Front(start, end)]
        modern = rng.uniform() < 0.25
        cast.add(far, lambda: buildings.draw_building(canvas, rng, fronts, height, modern))
        return
    if kind == 1:
        set_back = side.front + side.sign * rng.uniform(1.5, 5.0)
        house = buildings.Front(street.at(set_back, near + 1), street.at(set_back, far - 1))
        eaves = rng.uniform(3.0, 6.0)
        cast.add(far, lambda: buildings.draw_pitched_house(canvas, rng, house, outward, eaves))
    boundary = buildings.Front(street.at(side.pavement, near), street.at(side.pavement, far))
    edge = int(rng.choice((2, 3, 4, 5))) if kind == 1 else kind
    if edge == 2:
        size = rng.uniform(1.3, 3.2)
        cast.add(far - 0.01, lambda: buildings.draw_wall(canvas, rng, boundary, size))
    elif edge == 3:
        tall = rng.uniform(1.1, 2.3)
        cast.add(far - 0.01, lambda: buildings.draw_fence(canvas, rng, boundary, tall))
    elif edge == 4:
        high = rng.uniform(0.8, 2.4)
        cast.add(far - 0.01, lambda: plants.draw_hedge(canvas, rng, boundary.start, boundary.end, high))
    _cast_garden(cast, side, near, far, sparse=kind == 1)


def _cast_garden(cast: Cast, side: Side, near: float, far: float, sparse: bool) -> None:
    """Trees and bushes on the ground behind the pavement."""
    rng = cast.rng
    for _ in range(int(rng.integers(0, 2 if sparse else 4))):
        x, z = side.pavement + side.sign * rng.uniform(1.5, 14.0), rng.uniform(near, far)
        big = bool(rng.uniform() < 0.5)
        _cast_tree(cast, x, z, far, big)
    for _ in range(int(rng.integers(0, 4))):
        x, z = side.pavement + side.sign * rng.uniform(0.8, 9.0), rng.uniform(near, far)
        cast.place(plants.draw_bush, x, min(z + 1.0, far))


def _cast_tree(cast: Cast, x: float, z: float, far: float, big: bool = False) -> None:
    """Enter a tree at depth z that is drawn with what ends at depth ``far``."""
    place = float(x + cast.street.shift(z))
    if cast.canvas.sees(place, z, 7.0):
        cast.add(far, lambda: plants.draw_tree(cast.canvas, cast.rng, place, z, big))


def cast_furniture(cast: Cast, side: Side) -> None:
    """Street trees, lamps, signals, signs, bins and parked two-wheelers along one pavement."""
    rng, street = cast.rng, cast.street
    kerb, verge = side.road + side.sign * 0.5, side.verge - side.road
    row = side.road + (verge / 2 if verge else side.sign * 0.8)
    _along(cast, 10.0 / max(street.theme.trees, 0.05), lambda z: _cast_tree(cast, row, z, z))
    draw_pole = furniture.draw_utility_pole if rng.uniform() < 0.2 else furniture.draw_lamp
    _along(cast, rng.uniform(14, 26), lambda z: cast.place(draw_pole, kerb, z))
    _along(cast, rng.uniform(10, 28), lambda z: cast.place(furniture.draw_sign, kerb + side.sign * 0.2, z))
    _along(cast, 45.0, lambda z: cast.place(furniture.draw_bollards, kerb, z))
    _along(cast, 40.0, lambda z: cast.place(furniture.draw_bin, side.verge + side.sign * rng.uniform(0.8, 1.6), z))
    if rng.uniform() < 0.3:
        cast.place(furniture.draw_direction_sign, side.pavement, rng.uniform(12, 40))
    if street.crossing is not None and rng.uniform() < 0.85:
        for z in (street.crossing - 1.5, street.crossing + street.crossing_width + 1.5):
            cast.place(furniture.draw_traffic_light, kerb, z)
    elif rng.uniform() < 0.5:
        cast.place(furniture.draw_traffic_light, kerb, rng.uniform(9, 24))
    for draw, chance in ((people.draw_bicycle, 0.5), (people.draw_motorcycle, 0.3)):
        if rng.uniform() < chance:
            _cast_parked(cast, side, draw)


def _along(cast: Cast, spacing: float, put: Callable[[float], None]) -> None:
    """Call ``put`` at roughly even depths up to the end of the frontage, sparing the side street."""
    z = cast.rng.uniform(5.5, 5.5 + spacing)
    while z < 75.0:
        if not cast.street.crosses(z, 2.0):
            put(float(z))
        z += spacing * cast.rng.uniform(0.75, 1.25)


def _cast_parked(cast: Cast, side: Side, draw: Callable[..., None]) -> None:
    rng = cast.rng
    z, x = rng.uniform(6, 22), side.verge + side.sign * rng.uniform(0.6, 1.3)
    for _ in range(int(rng.integers(1, 4))):
        cast.place(partial(draw, heading=rng.uniform(0, 2 * np.pi)), x, z)
        z += rng.uniform(0.9, 1.8)


def cast_vehicles(cast: Cast) -> None:
    """Moving traffic on the lanes, parked cars at the kerbs, crossing traffic on the side street."""
    rng, street = cast.rng, cast.street
    tram_lane = int(rng.integers(len(street.lanes))) if rng.uniform() < 0.2 else None
    for index, x in enumerate(street.lanes):
        oncoming = index < street.oncoming
        heading = np.pi if oncoming else 0.0
        in_own_lane = abs(x) < 0.5 * street.lane_width
        z = rng.uniform(13, 32) if in_own_lane else rng.uniform(8, 26)
        if index == tram_lane:
            draw_rails(cast.canvas, street, x)
            z = rng.uniform(24, 34)
            cast.drive(vehicles.draw_train, x, z, heading)
            z += 22
        while z < 85:
            draw = (vehicles.draw_car, vehicles.draw_truck, vehicles.draw_bus)[int(rng.choice(3, p=(0.72, 0.15, 0.13)))]
            if draw is not vehicles.draw_car:
                z += 4
            cast.drive(draw, x + rng.normal(0, 0.15), z, heading + rng.normal(0, 0.02))
            z += rng.uniform(9, 34)
    for side in (street.left, street.right):
        room = abs(side.road - (street.lanes[0] if side.sign < 0 else street.lanes[-1])) - street.lane_width / 2
        if room > 1.5:
            _cast_parked_cars(cast, side)
    if street.crossing is not None and rng.uniform() < 0.6:
        kinds = (vehicles.draw_car, vehicles.draw_truck, vehicles.draw_bus, vehicles.draw_train)
        draw = kinds[int(rng.choice(4, p=(0.55, 0.12, 0.13, 0.2)))]
        z, x = street.crossing + 0.5 * street.crossing_width, rng.uniform(-7, 7)
        pose = vehicles.Pose(x, z, float(rng.choice((-1, 1))) * np.pi / 2)
        cast.add(z, lambda: draw(cast.canvas, rng, pose))


def _cast_parked_cars(cast: Cast, side: Side) -> None:
    rng, street = cast.rng, cast.street
    z = rng.uniform(5, 12)
    while z < 70:
        if rng.uniform() < 0.65 and not street.crosses(z, 5.0):
            draw = vehicles.draw_truck if rng.uniform() < 0.05 else vehicles.draw_car
            if draw is vehicles.draw_truck:
                z += 2.5
            heading = (0.0 if side.sign > 0 else np.pi) + rng.normal(0, 0.02)
            cast.drive(draw, side.road - side.sign * 1.1, z, heading)
        z += rng.uniform(5.6, 7.0)


def cast_people(cast: Cast) -> None:
    """Pedestrians on the pavements and crossings, riders on the road."""
    rng, street = cast.rng, cast.street
    for side in (street.left, street.right):
        for _ in range(int(rng.poisson(3.5))):
            x = side.verge + (side.pavement - side.verge) * rng.uniform(0.2, 0.9)
            z = rng.uniform(5.0, 14.0) if rng.uniform() < 0.4 else rng.uniform(12.0, 50.0)
            for _ in range(int(rng.choice((1, 1, 2)))):
                cast.place(people.draw_person, x, z)
                x, z = x + rng.uniform(-0.7, 0.7), z + rng.uniform(0.1, 0.6)
    if rng.uniform() < 0.45:
        z = street.crossing - 2.2 if street.crossing is not None else rng.uniform(9, 20)
        for _ in range(int(rng.integers(1, 4))):
            cast.place(people.draw_person, rng.uniform(street.left.road, street.right.road), z + rng.uniform(-0.9, 0.9))
    for _ in range(int(rng.choice((0, 1, 1, 2)))):
        draw = people.draw_bicycle if rng.uniform() < 0.6 else people.draw_motorcycle
        _cast_rider(cast, draw)


def _cast_rider(cast: Cast, draw: Callable[..., None]) -> None:
    rng, street = cast.rng, cast.street
    z = rng.uniform(6.5, 22)
    if rng.uniform() < 0.35:
        x, heading = rng.uniform(street.left.road + 1, street.right.road - 1), rng.choice((-1, 1)) * np.pi / 2
        if street.crossing is not None:
            z = street.crossing - 1.0
    else:
        lane = int(rng.integers(len(street.lanes)))
        x = street.lanes[lane] + rng.uniform(0.4, 1.1) * (-1 if lane < street.oncoming else 1)
        heading = (np.pi if lane < street.oncoming else 0.0) + rng.normal(0, 0.35)
    cast.place(partial(draw, heading=float(heading), ridden=True), x, z)
