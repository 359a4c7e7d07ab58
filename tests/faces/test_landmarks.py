from __future__ import annotations

import csv

import numpy as np
import pytest

from d2sm_plugin.errors import OptionError
from d2sm_plugin.faces.landmarks import (
    CELEBA5,
    HELEN29,
    IBUG68,
    POINT_SETS,
    eye_centres,
    flip_points,
    point_set,
    rotate_points,
)


@pytest.mark.parametrize("scheme", POINT_SETS.values(), ids=POINT_SETS)
def test_a_set_is_consistent(scheme):
    mirror = list(scheme.mirror)
    assert [mirror[point] for point in mirror] == list(range(scheme.count))
    members = [point for points in scheme.components.values() for point in points]
    assert sorted(members) == list(range(scheme.count))
    left, right = scheme.components["left_eye"], scheme.components["right_eye"]
    assert {mirror[point] for point in left} == set(right)
    for name in set(scheme.components) - {"left_eye", "right_eye"}:
        assert {mirror[point] for point in scheme.components[name]} == set(scheme.components[name])
    assert {mirror[point] for point in scheme.eyes[0]} == set(scheme.eyes[1])
    assert mirror[scheme.eye_corners[0]] == scheme.eye_corners[1]


def test_the_68_points_change_places_as_300w_defines_them():
    mirror = IBUG68.mirror
    assert IBUG68.count == 68
    assert mirror[:17] == tuple(range(16, -1, -1))
    assert mirror[17:27] == tuple(range(26, 16, -1))
    assert mirror[27:31] == (27, 28, 29, 30)
    assert mirror[31:36] == (35, 34, 33, 32, 31)
    assert mirror[36:48] == (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40)  # the eyes do change places
    assert mirror[48:60] == (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55)
    assert mirror[60:] == (64, 63, 62, 61, 60, 67, 66, 65)
    assert [len(points) for points in IBUG68.components.values()] == [6, 6, 9, 20, 27]


def test_the_29_points_change_places_as_the_mean_face_does(shared):
    """Every point of the mirrored mean face lies nearest to the one that it becomes."""
    with open(shared / "data/helen29/landmarks.csv", newline="") as file:
        faces = [np.array(row[2:], float).reshape(-1, 2) for row in list(csv.reader(file))[1:]]
    shapes = []
    for face in faces:
        left, right = eye_centres(face, HELEN29)
        across = (right - left) / np.hypot(*(right - left)) ** 2
        shapes.append((face - (left + right) / 2) @ np.array([across, [-across[1], across[0]]]).T)
    mean = np.mean(shapes, axis=0)
    distances = np.linalg.norm((mean * [-1, 1])[:, None] - mean[None], axis=2)
    assert tuple(distances.argmin(axis=1)) == HELEN29.mirror
    assert distances[np.arange(29), HELEN29.mirror].max() < 0.04  # of the distance between the eyes


def test_flipped_points_fall_on_flipped_pixels():
    points = np.array([[1.0, 2.0], [5.0, 2.0], [3.0, 4.0], [2.0, 6.0], [4.0, 6.0]])
    image = np.zeros((8, 9), int)
    for number, (x, y) in enumerate(points, start=1):
        image[int(y), int(x)] = number
    flipped = flip_points(points, 9, CELEBA5)
    seen = [image[:, ::-1][int(y), int(x)] - 1 for x, y in flipped]
    assert seen == list(CELEBA5.mirror)
    np.testing.assert_array_equal(flip_points(flipped, 9, CELEBA5), points)


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 4])
def test_turned_points_fall_on_turned_pixels(quarters):
    points = np.array([[1.0, 2.0], [8.0, 0.0], [0.0, 7.0]])
    image = np.zeros((8, 9), int)
    for number, (x, y) in enumerate(points, start=1):
        image[int(y), int(x)] = number
    turned = np.rot90(image, quarters)
    for number, (x, y) in enumerate(rotate_points(points, (8, 9), quarters), start=1):
        assert turned[int(y), int(x)] == number


def test_unknown_set():
    with pytest.raises(OptionError, match=r"datasets\.train\.points: no set.*did you mean 'ibug68'"):
        point_set("ibug-68", "datasets.train.points")
