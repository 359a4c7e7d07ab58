from __future__ import annotations

import numpy as np
import pytest
import torch

from d2sm_plugin.archs.dark_channel_prior_arch import (
    DarkChannelPrior,
    dark_channel,
    dark_channel_prior,
    estimate_airlight,
)
from d2sm_plugin.data.haze import add_haze, stereo_pair_with_depth
from d2sm_plugin.errors import OptionError, ShapeError


def windows(plane: np.ndarray, radius: int):
    """Every pixel's square window, cut off at the border."""
    for row, column in np.ndindex(plane.shape):
        rows = slice(max(0, row - radius), row + radius + 1)
        columns = slice(max(0, column - radius), column + radius + 1)
        yield (row, column), (rows, columns)


def loop_dark_channel(image, patch):
    result = np.empty(image.shape[:2])
    for pixel, window in windows(result, patch // 2):
        result[pixel] = image[window].min()
    return result


def loop_guided_filter(guide, values, radius, eps):
    """The definition: a linear model fitted in every window, and at a pixel the mean of all models that cover it."""
    slope, offset = np.empty(guide.shape), np.empty(guide.shape)
    for pixel, window in windows(guide, radius):
        x, y = guide[window].ravel(), values[window].ravel()
        count = len(x)
        # minimise sum (a x + b - y)² + count * eps a²
        system = np.array([[x @ x + count * eps, x.sum()], [x.sum(), count]])
        slope[pixel], offset[pixel] = np.linalg.solve(system, [x @ y, y.sum()])
    result = np.empty(guide.shape)
    for pixel, window in windows(guide, radius):
        result[pixel] = slope[window].mean() * guide[pixel] + offset[window].mean()
    return result


def loop_prior(image, patch, omega, brightest, t_min, radius, eps):
    dark = loop_dark_channel(image, patch)
    count = max(1, round(brightest * dark.size))
    least = sorted(dark.ravel())[-count]
    airlight = np.mean([image[pixel] for pixel in np.ndindex(dark.shape) if dark[pixel] >= least], axis=0)
    transmission = 1 - omega * loop_dark_channel(image / airlight, patch)
    grey = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    transmission = loop_guided_filter(grey, transmission, radius, eps)
    result = np.empty_like(image)
    for pixel in np.ndindex(dark.shape):
        result[pixel] = (image[pixel] - airlight) / max(transmission[pixel], t_min) + airlight
    return np.clip(result, 0, 1)


@pytest.fixture(scope="module")
def motorcycle():
    image, depth = stereo_pair_with_depth()
    return image[100:400, 150:600], depth[100:400, 150:600]


def psnr(image, reference):
    return -10 * np.log10(np.mean((np.asarray(image, float) - np.asarray(reference, float)) ** 2))


@pytest.mark.parametrize(("patch", "radius"), [(3, 2), (5, 7), (15, 60)])
def test_agrees_with_the_direct_loop(patch, radius):
    image = np.random.default_rng(patch).random((14, 17, 3))
    expected = loop_prior(image, patch, 0.95, 0.05, 0.1, radius, 1e-4)
    got = dark_channel_prior(image, patch=patch, brightest=0.05, radius=radius)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_image_without_haze_is_nearly_unchanged():
    """A dark pixel in every patch means: no haze anywhere. The airlight is then free, and must not matter."""
    image = np.random.default_rng(0).random((90, 120, 3))
    image[::7, ::7] = 0
    image[40:60, 40:70] = 1  # something bright enough to be taken for the sky
    image[::5, ::5] = 0
    assert np.abs(dark_channel_prior(image) - image).max() < 1e-6
    assert not dark_channel(image, 15).any()


@pytest.mark.parametrize("beta", [0.3, 0.6])
def test_synthetic_haze_is_removed(motorcycle, beta):
    clear, depth = motorcycle
    hazy = add_haze(clear, depth, beta, 0.95).image
    assert psnr(dark_channel_prior(hazy), clear / 255) > psnr(hazy, clear / 255) + 3


def test_airlight_is_the_colour_of_the_haze(motorcycle):
    clear, depth = motorcycle
    depth = depth.copy()
    depth[:40] = np.inf
    hazy = add_haze(clear // 2, depth, 0.5, (0.9, 0.85, 0.8)).image.astype(np.float64)
    np.testing.assert_allclose(estimate_airlight(hazy, dark_channel(hazy, 15), 0.001), (0.9, 0.85, 0.8), atol=0.01)


def test_bytes_and_floats_agree(motorcycle):
    pixels = motorcycle[0][:80, :90]
    assert np.array_equal(dark_channel_prior(pixels), dark_channel_prior(pixels / 255))


@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_stay_finite(value):
    result = dark_channel_prior(np.full((20, 20, 3), value, np.uint8))
    assert result.dtype == np.float32
    assert np.isfinite(result).all()


def test_improves_the_real_benchmark(shared):
    """PSNR over all of SOTS' hazy test images kept here; the figures are in the documentation's table."""
    from d2sm_plugin.data.image_store import open_images

    root = shared / "data" / "sots_indoor" / "test"
    hazy, clear = open_images(root / "hazy"), open_images(root / "gt")
    gains = []
    for key in hazy.keys[:6]:
        reference = clear.read_rgb(key.split("_")[0]) / 255
        image = hazy.read_rgb(key)
        gains.append(psnr(dark_channel_prior(image), reference) - psnr(image / 255, reference))
    assert np.mean(gains) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 4}, "patch must be odd"),
        ({"omega": 0}, "omega must lie in"),
        ({"t_min": 2}, "t_min must lie in"),
        ({"brightest": 0}, "brightest must lie in"),
        ({"eps": 0}, "eps positive"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        dark_channel_prior(np.zeros((4, 4, 3)), **arguments)


def test_anything_but_rgb_is_refused():
    with pytest.raises(ShapeError, match=r"expected an RGB image \(H, W, 3\)"):
        dark_channel_prior(np.zeros((4, 4)))


def test_the_network_gives_what_the_function_gives():
    pixels = np.random.default_rng(3).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
    lq = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    restored = DarkChannelPrior()(lq)
    for image, clear in zip(pixels, restored, strict=True):
        assert np.array_equal(clear.permute(1, 2, 0).numpy(), dark_channel_prior(image))
