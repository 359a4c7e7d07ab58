from __future__ import annotations

import pytest
import torch

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses.asymmetric_noise_loss import AsymmetricNoiseLoss
from d2sm_plugin.losses.tv_loss import LOSS_REGISTRY, TVLoss
from d2sm_plugin.registry import build


@pytest.fixture
def noise_map():
    return torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sigma():
    return torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(3, 1, 1, 1)


def asymmetric_by_loop(noise_map, sigma, alpha):
    total, count = 0.0, 0
    for image, level in zip(noise_map, sigma.flatten().tolist(), strict=True):
        for value in image.flatten().tolist():
            error = value - level
            total += (1 - alpha if error < 0 else alpha) * error**2
            count += 1
    return total / count


def tv_of_one_image(image):
    channels, height, width = image.shape
    rows = columns = 0.0
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                if y + 1 < height:
                    rows += (image[c, y + 1, x] - image[c, y, x]).item() ** 2
                if x + 1 < width:
                    columns += (image[c, y, x + 1] - image[c, y, x]).item() ** 2
    return rows / (channels * (height - 1) * width) + columns / (channels * height * (width - 1))


@pytest.mark.parametrize("alpha", [0.3, 0.1])
def test_asymmetric_equals_explicit_loop(noise_map, sigma, alpha):
    value = AsymmetricNoiseLoss(alpha, loss_weight=0.5)(noise_map, sigma)
    assert value.item() == pytest.approx(0.5 * asymmetric_by_loop(noise_map, sigma, alpha), rel=1e-12)


def test_under_estimation_costs_more():
    loss, truth = AsymmetricNoiseLoss(), torch.full((1, 3, 1, 1), 0.2)
    too_low, too_high = loss(truth - 0.1, truth), loss(truth + 0.1, truth)
    assert too_low.item() == pytest.approx(0.7 * 0.01, rel=1e-5)
    assert too_high.item() == pytest.approx(0.3 * 0.01, rel=1e-5)


def test_asymmetric_takes_level_or_map(noise_map, sigma):
    loss = AsymmetricNoiseLoss()
    assert torch.equal(loss(noise_map, sigma), loss(noise_map, sigma.expand_as(noise_map)))


def test_tv_is_the_mean_of_the_images(noise_map):
    expected = sum(tv_of_one_image(image) for image in noise_map) / len(noise_map)
    assert TVLoss(0.05)(noise_map).item() == pytest.approx(0.05 * expected, rel=1e-12)


def test_tv_does_not_depend_on_batch_or_tiling(noise_map):
    loss = TVLoss()
    assert loss(noise_map.repeat(4, 1, 1, 1)).item() == pytest.approx(loss(noise_map).item(), rel=1e-12)
    ramp = torch.arange(40.0).expand(1, 1, 8, 40)
    assert loss(ramp).item() == loss(ramp[..., :10]).item() == 1.0


@pytest.mark.parametrize("value", [0.0, 0.37])
def test_zero_at_the_truth_with_zero_gradient(sigma, value):
    flat = (torch.zeros(3, 2, 4, 5, dtype=torch.float64) + value).requires_grad_()
    for result in (AsymmetricNoiseLoss()(flat, torch.full_like(sigma, value)), TVLoss()(flat)):
        (gradient,) = torch.autograd.grad(result, flat)
        assert result.item() == 0
        assert not gradient.any()


def test_gradcheck(noise_map, sigma):
    noise_map.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: AsymmetricNoiseLoss()(x, sigma), noise_map)
    assert torch.autograd.gradcheck(TVLoss(), noise_map)


def test_built_from_option_blocks():
    loss = build(LOSS_REGISTRY, {"type": "AsymmetricNoiseLoss", "alpha": 0.2, "loss_weight": 0.5}, "train.noise_opt")
    assert loss.takes == ("noise_map", "sigma")
    assert build(LOSS_REGISTRY, {"type": "TVLoss"}, "train.tv_opt").takes == ("noise_map",)


@pytest.mark.parametrize("alpha", [0, 0.5, -1, 2])
def test_alpha_out_of_range(alpha):
    with pytest.raises(OptionError, match=r"between 0 and 0\.5"):
        AsymmetricNoiseLoss(alpha)


@pytest.mark.parametrize("shape", [(3,), (1, 1, 1, 1), (3, 1, 4, 4), (3, 1)])
def test_sigma_of_another_shape(noise_map, shape):
    with pytest.raises(ShapeError, match=r"expected sigma of shape \(3, 1, 1, 1\)"):
        AsymmetricNoiseLoss()(noise_map, torch.zeros(shape))


def test_tv_needs_neighbours():
    with pytest.raises(ShapeError, match="at least 2"):
        TVLoss()(torch.zeros(1, 3, 1, 8))
