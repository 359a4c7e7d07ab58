from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses import contextual_loss
from d2sm_plugin.losses.contextual_loss import ContextualLoss


class Patches(nn.Module):
    """A feature map whose positions are 2x2 blocks of pixels: 12 values."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def feature_map(self, images):
        return self.weight * nn.functional.pixel_unshuffle(images, 2)


def images(size: int = 8, batch: int = 2):
    generator = torch.Generator().manual_seed(size)
    return [torch.rand(batch, 3, size, size, dtype=torch.float64, generator=generator) for _ in range(2)]


def vectors(batch):
    return Patches().feature_map(batch).flatten(2).transpose(1, 2).detach()


def by_loops(generated, target, bandwidth=0.5, epsilon=1e-5):
    """The formula, pair by pair, of features (B, P, C)."""
    mean = target.mean((0, 1))
    losses = []
    for points, goals in zip(generated, target, strict=True):
        actual = [-math.inf] * len(goals)
        for point in points:
            distances = [
                (1 - torch.dot(point - mean, goal - mean) / ((point - mean).norm() * (goal - mean).norm())).item() / 2
                for goal in goals
            ]
            weights = [math.exp((1 - d / (min(distances) + epsilon)) / bandwidth) for d in distances]
            actual = [max(best, w / sum(weights)) for best, w in zip(actual, weights, strict=True)]
        losses.append(-math.log(sum(actual) / len(actual)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("bandwidth", "epsilon"), [(0.5, 1e-5), (0.1, 1e-5), (1.0, 1e-2)])
@pytest.mark.parametrize("chunk", [1024, 5])
def test_equals_the_formula(monkeypatch, bandwidth, epsilon, chunk):
    monkeypatch.setattr(contextual_loss, "_CHUNK", chunk)
    restored, clear = images()
    loss = ContextualLoss(Patches(), bandwidth=bandwidth, epsilon=epsilon, loss_weight=2.0)
    expected = 2 * by_loops(vectors(restored), vectors(clear), bandwidth, epsilon)
    assert abs(loss(restored, clear).item() - expected) < 1e-10 * expected


def test_the_images_have_different_roles():
    restored, clear = images()
    loss = ContextualLoss(Patches())
    assert (loss(restored, clear) - loss(clear, restored)).abs() > 1e-4


@pytest.mark.parametrize("bandwidth", [0.5, 0.1])
def test_an_image_and_itself(bandwidth):
    """With d the smallest distance of two positions, CX_bb >= 1 / (1 + (P - 1) exp(-d / (epsilon h)))."""
    _, clear = images(16)
    units = nn.functional.normalize(vectors(clear) - vectors(clear).mean((0, 1)), dim=2)
    distance = (1 - units @ units.transpose(1, 2)) / 2
    count = distance.shape[1]
    apart = (distance + torch.eye(count)).amin((1, 2))
    epsilon = 1e-2  # large, so that the bound is not simply 0
    bound = torch.log1p((count - 1) * (-apart / (epsilon * bandwidth)).exp()).mean()
    value = ContextualLoss(Patches(), bandwidth=bandwidth, epsilon=epsilon)(clear, clear)
    assert 0 <= value <= bound * (1 + 1e-9)
    if bandwidth == 0.1:
        assert bound < 0.01
    assert ContextualLoss(Patches(), bandwidth=bandwidth)(clear, clear).abs() < 1e-12


def test_positions_do_not_matter():
    restored, clear = images()
    moved = restored.clone()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    blocks = nn.functional.pixel_unshuffle(restored, 2).flatten(2)[:, :, order].unflatten(2, (4, 4))
    moved = nn.functional.pixel_shuffle(blocks, 2)
    assert not torch.equal(moved, restored)
    loss = ContextualLoss(Patches())
    torch.testing.assert_close(loss(moved, clear), loss(restored, clear), rtol=1e-12, atol=0)
    assert loss(nn.functional.pixel_shuffle(nn.functional.pixel_unshuffle(clear, 2).flip(2, 3), 2), clear) < 1e-12


@pytest.mark.parametrize("chunk", [1024, 3])
def test_gradient(monkeypatch, chunk):
    monkeypatch.setattr(contextual_loss, "_CHUNK", chunk)
    restored, clear = images(6, 2)
    loss = ContextualLoss(Patches(), epsilon=1e-2)
    assert torch.autograd.gradcheck(lambda x: loss(x, clear), (restored.requires_grad_(),))
    clear.requires_grad_()
    loss(restored, clear).backward()
    assert clear.grad is None and not list(loss.parameters())


def test_equal_and_flat_images_have_a_finite_gradient():
    for restored in (images()[1].float(), torch.zeros(2, 3, 8, 8)):
        restored.requires_grad_()
        for clear in (images()[1].float(), torch.full((2, 3, 8, 8), 0.5)):
            ContextualLoss(Patches().float())(restored, clear).backward()
            assert restored.grad.isfinite().all()


def test_descent():
    restored, clear = images(16, 1)
    restored.requires_grad_()
    loss = ContextualLoss(Patches())
    optimiser = torch.optim.Adam([restored], lr=0.01)
    values = []
    for _ in range(20):
        optimiser.zero_grad()
        value = loss(restored, clear)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


def test_drawn_positions_repeat_and_continue():
    restored, clear = images(16, 1)
    restored.requires_grad_()
    first, second = (ContextualLoss(Patches(), max_positions=20, seed=4) for _ in range(2))
    values = [first(restored, clear).item() for _ in range(4)]
    assert len(set(values)) == 4
    assert [second(restored, clear).item() for _ in range(2)] == values[:2]
    saved = {name: value.clone() for name, value in second.state_dict().items()}
    assert list(saved) == ["sampler.generator_state"]
    with torch.no_grad():
        second.eval()(restored, clear)  # a validation between does not change what comes
    resumed = ContextualLoss(Patches(), max_positions=20, seed=99)
    resumed.load_state_dict(saved)
    assert [resumed(restored, clear).item() for _ in range(2)] == values[2:]
    drawn = ContextualLoss(Patches(), max_positions=20, seed=4)
    positions = ContextualLoss(Patches(), max_positions=20, seed=4).sampler.choose(64)
    expected = by_loops(vectors(restored)[:, positions], vectors(clear)[:, positions])
    assert abs(drawn(restored, clear).item() - expected) < 1e-10


def test_the_network_is_frozen_moves_along_and_is_not_saved():
    network = Patches()
    loss = ContextualLoss(network).float().train()
    assert network.weight.dtype == torch.float32 and not network.weight.requires_grad and not network.training
    assert not list(loss.parameters()) and all("weight" not in name for name in loss.state_dict())
    restored, clear = (batch.float().requires_grad_() for batch in images())
    loss(restored, clear).backward()
    assert restored.grad.abs().sum() > 0 and network.weight.grad is None


def test_autocast_reaches_the_network_alone():
    restored, clear = (batch.float() for batch in images())
    loss = ContextualLoss(Patches().float())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(restored, clear)
    torch.testing.assert_close(value, loss(restored, clear))


def test_real_network_and_mistakes():
    block = {"type": "TimmFeatures", "model": "test_efficientnet", "weights": None, "stride": 8}
    restored, clear = (batch.float() for batch in images(32))
    assert ContextualLoss(block)(restored, clear) > 0
    with pytest.raises(OptionError, match=r"ContextualLoss\.extractor: Linear gives no feature map"):
        ContextualLoss(nn.Linear(1, 1))
    with pytest.raises(OptionError, match=r"ContextualLoss\.bandwidth: expected a number above 0, got 0"):
        ContextualLoss(Patches(), bandwidth=0)
    with pytest.raises(OptionError, match="expected at least 1 samples"):
        ContextualLoss(Patches(), max_positions=0)
    with pytest.raises(ShapeError, match="divide them by 255"):
        ContextualLoss(Patches())(255 * restored.double(), 255 * clear.double())
