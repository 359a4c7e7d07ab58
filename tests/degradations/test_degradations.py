"""Every degradation against a formula, another library or a property."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import convolve

import d2sm_plugin  # noqa: F401
from d2sm_plugin.degradations.blur_degradation import KINDS, Blur, SincFilter, gaussian_kernel, sinc_kernel
from d2sm_plugin.degradations.camera_degradation import CameraNoise
from d2sm_plugin.degradations.chain import Noisy, Step, read_steps, run
from d2sm_plugin.degradations.combined_degradation import OneOf, SecondOrder, Shuffled
from d2sm_plugin.degradations.downscale_degradation import Downscale
from d2sm_plugin.degradations.jpeg_degradation import JPEG
from d2sm_plugin.degradations.mosaic import PATTERNS, demosaicked, mosaicked
from d2sm_plugin.degradations.noise_degradation import GaussianNoise, PoissonGaussianNoise
from d2sm_plugin.degradations.response_curves import ResponseCurve
from d2sm_plugin.errors import DataError, ForeignError, OptionError
from d2sm_plugin.registry import DEGRADATION_REGISTRY


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    """A smooth picture with values from 0.1 to 0.9."""
    coarse = rng(5).uniform(0.1, 0.9, (6, 8, channels)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)


def flat(*values: float, side: int = 256) -> np.ndarray:
    return np.broadcast_to(np.float32(values), (side, side, 3)).copy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["Blur", "CameraNoise", "Downscale", "GaussianNoise", "JPEG", "PoissonGaussianNoise",
                                  "SecondOrder", "SincFilter"])  # fmt: skip
def test_each_repeats_and_keeps_channels(name, channels):
    (step,) = read_steps([{"type": name}], "degradations")
    image = picture(channels=channels)
    before = image.copy()
    first, again, other = (step(image, rng(seed)).image for seed in (1, 1, 2))
    assert np.array_equal(first, again) and np.array_equal(image, before)
    assert not np.array_equal(first.ravel()[:90], other.ravel()[:90])
    assert first.dtype == np.float32 and first.shape[2] == channels
    assert name in DEGRADATION_REGISTRY


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 1), (9, 1, 3), (2, 2, 3), (7, 11, 1)])
def test_each_takes_the_smallest_images(shape):
    names = [name for name, cls in DEGRADATION_REGISTRY if cls.__module__.startswith("d2sm_plugin.")]
    for name in set(names) - {"OneOf", "Shuffled"}:
        (step,) = read_steps([{"type": name}], "x")
        for image in (np.zeros(shape, np.float32), np.ones(shape, np.float32)):
            assert np.isfinite(step(image, rng()).image).all()


# ------------------------------------------------------------------------------------------------------------- noise


def test_gaussian_noise():
    noisy, level = GaussianNoise(30)(flat(0.2, 0.5, 0.8), rng())
    error = noisy - flat(0.2, 0.5, 0.8)
    assert level == 30 / 255
    assert error.std(axis=(0, 1)) == pytest.approx(30 / 255, rel=0.02) and abs(error.mean()) < 2e-3
    assert abs(np.corrcoef(error[..., 0].ravel(), error[..., 1].ravel())[0, 1]) < 0.02
    grey = GaussianNoise(30, grey=1)(flat(0.2, 0.5, 0.8), rng()).image - flat(0.2, 0.5, 0.8)
    assert np.ptp(grey, axis=2).max() < 1e-6
    levels = [GaussianNoise((10, 50))(flat(0.5, side=8), rng(seed)).level * 255 for seed in range(200)]
    assert 10 <= min(levels) < 14 and 46 < max(levels) <= 50


def test_poisson_gaussian_noise_has_the_variance_of_its_formula():
    image = flat(0.1, 0.4, 0.9)
    noisy, level = PoissonGaussianNoise(shot=40, read=10)(image, rng())
    expected = np.sqrt(40**2 * np.array([0.1, 0.4, 0.9]) + 10**2) / 255
    assert (noisy - image).std(axis=(0, 1)) == pytest.approx(expected, rel=0.02)
    assert level[0, 0] == pytest.approx(expected, rel=1e-5)
    assert (noisy - image).mean(axis=(0, 1)) == pytest.approx(0, abs=3e-3)
    photons = PoissonGaussianNoise(shot=40, read=0)(image, rng()).image / (40 / 255) ** 2
    assert photons == pytest.approx(np.round(photons), abs=1e-3)  # whole numbers of them
    assert np.array_equal(PoissonGaussianNoise(shot=1e-9, read=0)(image, rng()).image, image)
    grey = PoissonGaussianNoise(shot=40, read=10, grey=1)(flat(0.4), rng()).image - flat(0.4)
    assert np.ptp(grey, axis=2).max() < 1e-6


@pytest.mark.parametrize("contrast", [0.0, 0.5, 1.0])
def test_a_response_curve_and_its_inverse(contrast):
    curve = ResponseCurve(2.2, contrast)
    light = np.linspace(0, 1, 1001, dtype=np.float32)
    response = curve.render(light)
    assert response[0] == 0 and response[-1] == pytest.approx(1) and (np.diff(response) > 0).all()
    assert curve.render(curve.linearise(response)) == pytest.approx(response, abs=2e-6)
    if not contrast:
        assert response == pytest.approx(light.astype(np.float64) ** (1 / 2.2), abs=1e-6)
    assert curve.render(np.float32([-1, 2])).tolist() == [0, pytest.approx(1)]


def test_camera_noise_has_the_variance_of_its_formula_in_linear_light():
    """With the identity as response: variance L sigma_s² + sigma_c²."""
    image = flat(0.2, 0.4, 0.6)
    camera = CameraNoise(sigma_s=0.1, sigma_c=0.02, gamma=1, contrast=0, mosaic="none")
    noisy, level = camera(image, rng())
    expected = np.sqrt(np.array([0.2, 0.4, 0.6]) * 0.1**2 + 0.02**2)
    assert (noisy - image).std(axis=(0, 1)) == pytest.approx(expected, rel=0.02)
    assert level[0, 0] == pytest.approx(expected, rel=1e-3)


def test_the_level_of_camera_noise_is_that_seen_through_the_response():
    image = flat(0.3, 0.5, 0.7)
    noisy, level = CameraNoise(sigma_s=0.04, sigma_c=0.01, gamma=2.2, contrast=0.7, mosaic="none")(image, rng())
    assert (noisy - image).std(axis=(0, 1)) == pytest.approx(level[0, 0], rel=0.04)
    exact = CameraNoise(0, 0, mosaic="none")(image, rng())
    assert exact.image == pytest.approx(image, abs=2e-3) and not exact.level.any()  # 16 bits of light


def test_the_published_ranges_of_camera_noise():
    camera = CameraNoise()
    assert (camera.sigma_s, camera.sigma_c) == ((0, 0.16), (0, 0.06))
    assert camera.mosaics == ("none", *PATTERNS)


# ------------------------------------------------------------------------------------------------------------ mosaic


@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaicking_keeps_what_was_measured_and_returns_planes(pattern):
    """Colours that depend linearly on the place, all alike, are returned exactly, but for mirrored borders."""
    y, x = np.mgrid[:12, :14].astype(np.float32)
    plane = 0.1 + 0.02 * x + 0.03 * y
    image = np.stack([plane, plane + 0.1, plane - 0.05], axis=2)
    mosaic = mosaicked(image, pattern)
    restored = demosaicked(mosaic, pattern)
    assert restored[2:-2, 2:-2] == pytest.approx(image[2:-2, 2:-2], abs=1e-6)
    assert np.array_equal(mosaicked(restored, pattern), mosaic)
    assert mosaic[0, 0] == image[0, 0, "rgb".index(pattern[0])] and mosaic[1, 0] == image[1, 0, "rgb".index(pattern[2])]


def test_demosaicking_is_one_network_of_filters_for_all_patterns():
    """A pattern moved by one pixel is another pattern."""
    image = rng(3).random((16, 16, 3), np.float32)
    whole = demosaicked(mosaicked(image, "rggb"), "rggb")
    moved = demosaicked(mosaicked(image[:, 1:], "grbg"), "grbg")
    assert whole[4:-4, 5:-4] == pytest.approx(moved[4:-4, 4:-4], abs=1e-6)


# -------------------------------------------------------------------------------------------------------------- blur


def test_blur_is_that_of_opencv_and_scipy():
    image = picture()
    blurred = Blur(sigma=1.5, size=11)(image, rng())
    assert blurred == pytest.approx(cv2.GaussianBlur(image, (11, 11), 1.5), abs=1e-6)
    kernel = gaussian_kernel(9, (2.0, 0.7), 0.6)
    expected = np.stack([convolve(image[..., c].astype(np.float64), kernel, mode="mirror") for c in range(3)], axis=2)
    (step,) = read_steps([{"type": "Blur", "sigma": [0.2, 3], "kind": "anisotropic"}], "x")
    assert step(image, rng()).image.shape == image.shape
    assert cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101) == pytest.approx(expected, abs=1e-5)


def test_kernels():
    kernel = gaussian_kernel(61, (3.0, 6.0), math.pi / 6)
    y, x = np.mgrid[:61, :61] - 30
    covariance = np.array([[(kernel * x * x).sum(), (kernel * x * y).sum()], [0, (kernel * y * y).sum()]])
    turn = np.array([[math.cos(math.pi / 6), -math.sin(math.pi / 6)], [math.sin(math.pi / 6), math.cos(math.pi / 6)]])
    expected = turn @ np.diag([9.0, 36.0]) @ turn.T
    assert covariance[0] == pytest.approx(expected[0], rel=1e-3) and covariance[1, 1] == pytest.approx(
        expected[1, 1], rel=1e-3
    )
    assert gaussian_kernel(21, (2, 2), beta=1) == pytest.approx(gaussian_kernel(21, (2, 2)), abs=0)
    plateau = gaussian_kernel(21, (2, 2), beta=2, plateau=True)
    assert plateau[10, 10] / plateau[10, 12] == pytest.approx(1 + 1) and plateau[10, 10] / plateau[
        10, 14
    ] == pytest.approx(17)
    generalized = gaussian_kernel(21, (2, 2), beta=0.5)
    assert generalized[10, 10] / generalized[10, 14] == pytest.approx(math.e)
    for kind in KINDS:
        drawn = Blur((1, 2), kind).kernel(rng())
        assert drawn.sum() == pytest.approx(1) and drawn.shape[0] == drawn.shape[1] and drawn.shape[0] % 2 == 1
    assert {Blur(1, size=(7, 21)).kernel(rng(seed)).shape[0] for seed in range(60)} == set(range(7, 22, 2))


def test_the_sinc_filter_keeps_low_frequencies_and_takes_high_ones():
    kernel = sinc_kernel(51, 1.2)
    spectrum = np.abs(np.fft.fft2(kernel))
    frequency = 2 * math.pi * np.fft.fftfreq(51)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    assert spectrum[radius < 0.8] == pytest.approx(1, abs=0.1) and spectrum[radius > 1.7] == pytest.approx(0, abs=0.1)
    step_edge = np.repeat(np.float32([0.2] * 20 + [0.8] * 20)[None, :, None], 40, axis=0)
    ringing = SincFilter(cutoff=math.pi / 3, size=21)(step_edge, rng())
    assert ringing.max() > 0.82 and ringing.min() < 0.18


# ------------------------------------------------------------------------------------------- resolution, compression


def test_downscale():
    image = picture(48, 64)
    small = Downscale(0.25, ["area"])(image, rng())
    assert small == pytest.approx(image.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3)), abs=1e-6)
    assert Downscale(0.25, ["area"], back=True)(image, rng()).shape == image.shape
    assert Downscale(2.0)(image, rng()).shape == (96, 128, 3)
    sizes = {Downscale((0.5, 1.0))(image, rng(seed)).shape[0] for seed in range(60)}
    assert min(sizes) >= 24 and max(sizes) <= 48 and len(sizes) > 10


def test_an_image_does_not_grow_without_bounds():
    grown = read_steps([{"type": "Downscale", "factor": 16}] * 4, "x")
    with pytest.raises(DataError, match=r"would have .* pixels; lower Downscale\.factor 16"):
        run(grown, flat(0.5, side=64), rng())


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels):
    """Encoded by one library, read by the other, at the same quality: within what decoders may differ."""
    image = picture(channels=channels)
    pixels = np.round(image * 255).astype(np.uint8).squeeze()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=40, subsampling="4:2:0")
    expected = np.asarray(Image.open(buffer), np.float32).reshape(image.shape)
    compressed = JPEG(40)(image, rng()) * 255
    assert np.abs(compressed - expected).mean() < 1 and np.abs(compressed - image * 255).mean() > 0.5
    errors = [np.abs(JPEG(quality)(image, rng()) - image).mean() for quality in (10, 50, 95)]
    assert errors == sorted(errors, reverse=True)
    assert {JPEG((60, 63)).quality.draw_whole(rng(seed)) for seed in range(40)} == {60, 61, 62, 63}


# ------------------------------------------------------------------------------------------------------ combinations


def test_levels_of_several_noises_add_up_as_variances():
    image = flat(0.5, side=64)
    steps = read_steps([{"type": "GaussianNoise", "sigma": 30}, {"type": "GaussianNoise", "sigma": 40},
                        {"type": "JPEG", "quality": 100}], "x")  # fmt: skip
    assert run(steps, image, rng()).level == pytest.approx(50 / 255)  # before the JPEG, which takes some
    noisy = run(steps[:2], image, rng()).image
    assert (noisy - image).std() == pytest.approx(50 / 255, rel=0.05)
    mapped = run(
        read_steps([{"type": "PoissonGaussianNoise"}, {"type": "Downscale", "factor": 0.5}], "x"), image, rng()
    )
    assert mapped.level.shape == mapped.image.shape == (32, 32, 3)
    assert run(read_steps([{"type": "Blur"}], "x"), image, rng()).level == 0


def test_a_step_is_left_out_as_often_as_its_probability_says():
    (step,) = read_steps([{"type": "GaussianNoise", "probability": 0.3}], "x")
    image = flat(0.5, side=4)
    done = [step(image, rng(seed)).image is not image for seed in range(1000)]
    assert sum(done) == pytest.approx(300, abs=45)
    assert not any(read_steps([{"type": "JPEG", "probability": 0}], "x")[0](image, rng(s)).level for s in range(9))


def test_one_of_and_shuffled_draw_by_their_weights():
    marks = [Step(lambda image, _, value=value: image * 0 + value) for value in (0.1, 0.2, 0.3)]
    choice, image = OneOf([mark.degradation for mark in marks], [0.7, 0.3, 0]), flat(0.5, side=2)
    drawn = [round(float(choice(image, rng(seed)).image[0, 0, 0]), 1) for seed in range(500)]
    assert drawn.count(0.1) == pytest.approx(350, abs=40) and drawn.count(0.3) == 0
    shuffled = Shuffled([lambda image, _: image + 1, lambda image, _: image * 2])
    assert {float(shuffled(flat(1.0, side=2), rng(seed)).image[0, 0, 0]) for seed in range(20)} == {3.0, 4.0}


@pytest.mark.parametrize("scale", [1, 4])
def test_the_second_order_chain_ends_at_its_size(scale):
    image = picture(48, 64)
    chain = SecondOrder(scale)
    for seed in range(12):
        degraded, level = chain(image, rng(seed))
        assert degraded.shape == (48 // scale, 64 // scale, 3) and np.isfinite(degraded).all()
        assert np.ndim(level) == 0 or level.shape == degraded.shape
    shot = chain.noises[0].degradation.steps[1].degradation.shot
    assert shot == pytest.approx((0.05 * 255 / 16, 3 * 255 / 16))


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], r"^x: the list is empty; name a degradation, such as"),
        ([{"type": "Jpeg"}], r"^x\.0\.type: no degradation is registered as 'Jpeg'; did you mean 'JPEG'"),
        ([{"type": "JPEG", "qualty": 9}], r"^x\.0\.qualty: JPEG takes no such argument; did you mean 'quality'"),
        ([{"type": "Blur"}, {"type": "JPEG", "quality": [95, 60]}], r"^x\.1: JPEG\.quality: expected a number from 1"),
        ([{"type": "JPEG", "probability": 2}], r"^x\.0\.probability: expected a number from 0 to 1, got 2"),
        ([{"quality": 9}], r"^x\.0: the key 'type' is missing"),
        ([{"type": "Blur", "kind": "round"}], r"^x\.0: Blur\.kind: 'round' is unknown; "),
        ([{"type": "Blur", "kind": {"isotropic": 0}}], r"^x\.0: Blur\.kind: expected weights"),
        ([{"type": "Blur", "size": 8}], r"^x\.0: Blur\.size: expected odd numbers, got 8"),
        ([{"type": "GaussianNoise", "sigma": -1}], r"^x\.0: GaussianNoise\.sigma: expected a number from 0 to 255"),
        ([{"type": "Downscale", "factor": 0}], r"^x\.0: Downscale\.factor: expected a number from 0\.0625 to 16"),
        ([{"type": "OneOf", "steps": [{"type": "JPEG"}], "weights": [1, 2]}], r"OneOf\.weights: expected 1 numbers"),
        ([{"type": "OneOf", "steps": {"type": "JPEG"}}], r"^x\.0: OneOf\.steps: expected a list of degradations, got "),
        ([{"type": "Shuffled", "steps": ["JPEG"]}], r"^x\.0: Shuffled\.steps\.0: expected a block \{type: NAME"),
        ([{"type": "CameraNoise", "mosaic": "rgbg"}], r"^x\.0: CameraNoise\.mosaic: 'rgbg' is unknown; did you mean"),
        ([{"type": "SecondOrder", "scale": 0}], r"^x\.0: SecondOrder\.scale: expected a whole number of at least 1"),
        ([{"type": "Shuffled", "steps": [{"type": "JPG"}]}], r"^x\.0: Shuffled\.steps\.0\.type: no deg.*'JPEG'"),
    ],
)  # fmt: skip
def test_mistakes_in_blocks(blocks, message):
    with pytest.raises(OptionError, match=message):
        read_steps(blocks, "x")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"returned NoneType, expected an array \(H, W, 3\)"),
        (np.zeros((4, 4)), r"returned \(4, 4\), expected an array"),
        (np.full((4, 4, 3), np.nan), r"empty, or holds inf or NaN"),
        (np.zeros((0, 4, 3)), r"empty, or holds inf or NaN"),
        (np.full((4, 4, 3), 1e300), r"empty, or holds inf or NaN"),
        (np.zeros((4, 4, 3), np.uint8), r"returned values of type uint8, expected floats about \[0, 1\]"),
        (np.zeros((4, 4, 3), complex), r"returned values of type complex128, expected floats"),
        (np.full((4, 4, 3), "a"), r"returned values of type <U1, expected floats"),
        (Noisy(picture(), -0.1), r"returned a noise level that is negative, inf or NaN"),
        (Noisy(picture(), math.nan), r"returned a noise level that is negative, inf or NaN"),
        (Noisy(picture(), np.full((48, 64, 1), math.inf)), r"returned a noise level that is negative, inf or NaN"),
        (Noisy(picture(), None), r"returned a noise level that does not broadcast"),
        (Noisy(picture(), np.zeros((3, 3, 3))), r"returned a noise level that does not broadcast"),
    ],
)
def test_what_a_degradation_returns_is_checked(returned, message):
    with pytest.raises(DataError, match=message):
        Step(lambda image, generator: returned, name="Mine")(picture(), rng())


def test_what_a_degradation_raises_is_one_line():
    with pytest.raises(ForeignError, match=r"^Mine raised ZeroDivisionError"):
        Step(lambda image, generator: 1 / 0, name="Mine")(picture(), rng())


def test_levels_may_be_arrays_that_broadcast():
    noisy = Step(lambda image, generator: Noisy(image, np.float32([0.1, 0.2, 0.3])))(picture(), rng())
    assert np.broadcast_to(noisy.level, noisy.image.shape).shape == (48, 64, 3)
