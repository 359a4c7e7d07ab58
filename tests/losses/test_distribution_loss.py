from __future__ import annotations

import pytest
import torch
from d2sm_reference import TinyExtractor

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses.distribution_loss import KINDS, DistributionLoss
from d2sm_plugin.statistics.distances import DISTANCES

SPATIAL = {"type": "SpatialSampler", "max_positions": None}


def images(seed, count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    clear = torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=generator)
    noise = torch.randn(clear.shape, dtype=torch.float64, generator=generator)
    return (clear + 0.1 * noise).clamp(0, 1).to(dtype).requires_grad_(), clear.to(dtype)


def samples(extractor, image, normalize=True):
    rows = extractor.feature_map(image).flatten(2).transpose(1, 2)
    return torch.nn.functional.normalize(rows, dim=-1) if normalize else rows


@pytest.mark.parametrize("distance", sorted(DISTANCES))
@pytest.mark.parametrize("normalize", [True, False])
def test_is_the_distance_of_all_samples(distance, normalize):
    extractor = TinyExtractor().double().eval()
    pair = images(0)
    loss = DistributionLoss(distance, extractor, SPATIAL, normalize=normalize, loss_weight=3.0)
    rows = [samples(extractor, image, normalize).flatten(0, 1) for image in pair]
    assert loss(*pair).item() == pytest.approx(3 * DISTANCES[distance](*rows).item(), rel=1e-10)


@pytest.mark.parametrize("distance", KINDS)
def test_gradient_scope_and_precision(distance):
    extractor = TinyExtractor().double().eval()
    pair = images(0)
    loss = DistributionLoss(distance, extractor, SPATIAL).eval()  # the same directions every time
    (gradient,) = torch.autograd.grad(loss(*pair), pair[0])
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    step = 1e-6 * torch.randn(pair[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    change = (loss(pair[0] + step, pair[1]) - loss(pair[0] - step, pair[1])).item() / 2
    assert change == pytest.approx((gradient * step).sum().item(), rel=1e-3, abs=1e-13)
    single = DistributionLoss(distance, extractor, {**SPATIAL, "scope": "image"}).eval()
    one_by_one = [single(pair[0][n : n + 1], pair[1][n : n + 1]).item() for n in range(3)]
    assert single(*pair).item() == pytest.approx(sum(one_by_one) / 3, rel=1e-10)
    rounded = images(0, dtype=torch.float32)
    value = DistributionLoss(distance, TinyExtractor().eval(), SPATIAL).eval()(*rounded)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(*pair).item(), rel=1e-4)


def test_directions_are_part_of_the_state():
    extractor = TinyExtractor().double().eval()
    pair = images(0)
    loss = DistributionLoss("sliced_wasserstein", extractor, SPATIAL)
    first = loss(*pair).item()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    second = loss(*pair).item()
    assert first != second  # drawn anew
    loss.load_state_dict(state)
    loss.eval()(*pair)  # a validation between changes nothing
    assert loss.train()(*pair).item() == second


def test_options():
    with pytest.raises(OptionError, match=r"DistributionLoss\.distance: 'mmd' is unknown.*mmd_gaussian"):
        DistributionLoss("mmd", TinyExtractor())
    with pytest.raises(OptionError, match=r"DistributionLoss\.projections: expected a positive integer, got 0"):
        DistributionLoss("sliced_wasserstein", TinyExtractor(), projections=0)
