from __future__ import annotations

import numpy as np
import pytest

from d2sm_plugin.data.haze import INDOOR, STREET, HazeRange, add_haze, add_random_haze, stereo_pair_with_depth
from d2sm_plugin.errors import DataError, OptionError


@pytest.fixture
def scene():
    generator = np.random.default_rng(0)
    return generator.random((6, 8, 3)), generator.uniform(0.5, 20, (6, 8))


def test_follows_the_formula_at_every_pixel(scene):
    clear, depth = scene
    beta, airlight = 0.13, (0.8, 0.9, 0.7)
    hazy = add_haze(clear, depth, beta, airlight)
    for row, column in np.ndindex(depth.shape):
        t = np.exp(-beta * depth[row, column])
        assert hazy.transmission[row, column] == pytest.approx(t, rel=1e-5)
        for channel in range(3):
            expected = clear[row, column, channel] * t + airlight[channel] * (1 - t)
            assert hazy.image[row, column, channel] == pytest.approx(expected, abs=1e-6)


def test_the_model_can_be_inverted(scene):
    clear, depth = scene
    hazy = add_haze(clear, depth, 0.1, 0.9)
    t = hazy.transmission[..., None]
    np.testing.assert_allclose((hazy.image - hazy.airlight * (1 - t)) / t, clear, atol=1e-5)


def test_clear_air_and_endless_distance(scene):
    clear, depth = scene
    sky = np.full_like(depth, np.inf)
    np.testing.assert_allclose(add_haze(clear, depth, 0.0, 0.9).image, clear, atol=1e-7)
    np.testing.assert_allclose(add_haze(clear, sky, 0.0, 0.9).image, clear, atol=1e-7)
    np.testing.assert_allclose(add_haze(clear, sky, 0.5, 0.9).image, 0.9, atol=1e-7)


def test_bytes_and_floats_agree(scene):
    clear, depth = scene
    pixels = (clear * 255).round().astype(np.uint8)
    np.testing.assert_allclose(
        add_haze(pixels, depth, 0.1, 0.9).image, add_haze(pixels / 255, depth, 0.1, 0.9).image, atol=1e-6
    )


def test_farther_things_are_hazier(scene):
    clear, depth = scene
    transmission = add_haze(clear, depth, 0.1, 0.9).transmission
    order = np.argsort(depth, axis=None)
    assert (np.diff(transmission.ravel()[order]) <= 0).all()


def test_random_haze_is_seeded_and_within_its_range(scene):
    clear, depth = scene
    ranges = HazeRange(beta=(0.05, 0.1), airlight=(0.6, 0.8), tint=0.1)
    first = [add_random_haze(clear, depth, ranges, np.random.default_rng(seed)) for seed in range(20)]
    again = [add_random_haze(clear, depth, ranges, np.random.default_rng(seed)) for seed in range(20)]
    for haze, other in zip(first, again, strict=True):
        assert np.array_equal(haze.image, other.image)
        assert 0.05 <= haze.beta <= 0.1
        assert (haze.airlight >= 0.5 - 1e-6).all()
        assert (haze.airlight <= 0.9 + 1e-6).all()
    assert len({haze.beta for haze in first}) == 20


def test_haze_without_tint_is_grey(scene):
    hazy = add_random_haze(*scene, INDOOR, np.random.default_rng(3))
    assert np.ptp(hazy.airlight) == 0


def test_stereo_pair_has_the_depth_of_its_calibration():
    image, depth = stereo_pair_with_depth()
    assert (image.shape, image.dtype, depth.shape) == ((500, 741, 3), np.uint8, (500, 741))
    assert np.isfinite(depth).all()
    # Middlebury: the scene reaches from about 2 to 5 metres.
    assert 1.9 < depth.min() < 2.5
    assert 4.5 < depth.max() < 5.5
    hazy = add_haze(image, depth, 0.6, 0.9)
    assert hazy.image.min() >= 0
    assert hazy.image.max() <= 1


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.ones((5, 8)), r"expected an RGB image \(H, W, 3\) and its depth"),
        (np.full((6, 8), np.nan), "negative values or NaN"),
        (np.full((6, 8), -1.0), "negative values or NaN"),
    ],
)
def test_depth_that_does_not_fit_is_refused(scene, depth, message):
    with pytest.raises(DataError, match=message):
        add_haze(scene[0], depth, 0.1, 0.9)


def test_impossible_haze_is_refused(scene):
    with pytest.raises(OptionError, match="beta must be >= 0"):
        add_haze(*scene, -0.1, 0.9)
    with pytest.raises(OptionError, match="airlight in"):
        add_haze(*scene, 0.1, 1.5)
    with pytest.raises(OptionError, match="beta must be a range"):
        HazeRange(beta=(2, 1))
    with pytest.raises(OptionError, match="airlight must be a range"):
        HazeRange(beta=(0, 1), airlight=(0.5, 1.2))
    with pytest.raises(OptionError, match="tint"):
        HazeRange(beta=(0, 1), tint=-1)
    assert STREET.beta[0] < STREET.beta[1]
