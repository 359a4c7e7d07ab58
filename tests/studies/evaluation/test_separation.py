from __future__ import annotations

import sys

import numpy as np
import pytest

from d2sm_plugin.errors import DependencyError, OptionError

pytest.importorskip("sklearn", reason="needs the extra [plots]")

from d2sm_plugin.studies.evaluation.separation import clear_neighbours, separation, unit

IMAGES = np.repeat(np.arange(10), 12)


def cloud(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((120, 8))


def test_two_far_clusters():
    shift = 50 * np.eye(8)
    actual = separation(cloud(0) + shift[0], cloud(1) + shift[1], IMAGES)
    assert actual.mixed == 0
    assert actual.linear == 1
    assert actual.nearest == 1
    assert actual.silhouette > 0.7


def test_two_draws_of_one_distribution():
    actual = separation(cloud(0), cloud(1), IMAGES)
    assert actual.mixed == pytest.approx(0.5, abs=0.06)
    assert actual.linear == pytest.approx(0.5, abs=0.12)
    assert actual.nearest == pytest.approx(0.5, abs=0.12)
    assert actual.silhouette == pytest.approx(0, abs=0.01)
    assert actual.own_nearest < 0.1


def test_equal_sets():
    actual = separation(cloud(0), cloud(0), IMAGES)
    assert actual.own_nearest == 1
    assert actual.mixed == pytest.approx(0.5, abs=1e-9)
    assert actual.linear == pytest.approx(0.5, abs=1e-9)  # both of a pair get one answer, right for one of them
    assert actual.silhouette == pytest.approx(0, abs=0.01)


def test_more_noise_is_better_told_apart():
    clear = np.abs(cloud(0))
    actual = [separation(clear + amount * np.abs(cloud(1)) * np.eye(8)[0], clear, IMAGES) for amount in (0.2, 1, 5)]
    for name, sign in (("own_nearest", -1), ("mixed", -1), ("silhouette", 1), ("linear", 1)):
        values = [sign * getattr(result, name) for result in actual]
        assert values == sorted(values), name
        assert values[0] < values[-1]


def test_neighbours_by_hand():
    clear = np.array([[0.0], [10.0], [20.0]])
    restored = np.array([[1.0], [11.0], [30.0]])
    # of 0: clear 10 (9 away), restored 11 (10); of 1: clear 20 (9), then restored 1 (10); of 2: clear 10 / restored 11
    np.testing.assert_allclose(clear_neighbours(restored, clear, 2), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(clear_neighbours(restored, clear, 1), [1, 1, 0])


def test_equal_distances_share_places():
    clear, restored = np.array([[5.0], [2.0], [2.0], [9.0]]), np.array([[0.0], [-2.0], [9.0], [9.0]])
    # of 0: the clear 1 and 2 and the restored 1 are all 2 away and share 1 or 2 places
    assert clear_neighbours(restored, clear, 1)[0] == pytest.approx(2 / 3)
    assert clear_neighbours(restored, clear, 2)[0] == pytest.approx(2 / 3)


def test_unit_keeps_zeros():
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0, 0]]


def test_refuses_too_little():
    with pytest.raises(OptionError, match="120 samples of 3 images are too few"):
        separation(cloud(0), cloud(1), IMAGES % 3)
    with pytest.raises(OptionError, match="too few"):
        separation(cloud(0)[:11], cloud(1)[:11], np.arange(11))


def test_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(DependencyError, match=r"\.\[plots\]"):
        separation(cloud(0), cloud(1), IMAGES)
