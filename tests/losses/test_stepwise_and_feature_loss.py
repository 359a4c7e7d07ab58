from __future__ import annotations

import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses.feature_loss import FeatureLoss
from d2sm_plugin.losses.stepwise_loss import StepwiseLoss
from d2sm_plugin.registry import build


def test_sum_over_the_steps():
    loss = build(LOSS_REGISTRY, {"type": "StepwiseLoss", "criterion": {"type": "L1Loss"}, "loss_weight": 0.5}, "x")
    steps, target = torch.rand(4, 2, 3, 5, 5), torch.rand(2, 3, 5, 5)
    expected = 0.5 * sum((step - target).abs().mean() for step in steps)
    torch.testing.assert_close(loss(steps, target), expected)
    assert loss.takes == ("steps", "gt")


def test_gradients_of_the_steps():
    steps = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: StepwiseLoss(nn.MSELoss(), 0.1)(s, target), (steps,))


def test_stepwise_mistakes():
    with pytest.raises(ShapeError, match=r"expected outputs \(T, 2, 3\)"):
        StepwiseLoss(nn.MSELoss())(torch.rand(4, 2, 5), torch.rand(2, 3))
    with pytest.raises(OptionError, match=r"StepwiseLoss\.criterion\.type"):
        StepwiseLoss({"type": "L1Los"})


class Halves(nn.Module):
    """Means of the left and the right half."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.weight * torch.stack([half.flatten(1).mean(1) for half in images.chunk(2, dim=3)], dim=1)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_distance_of_features(criterion, power):
    loss = FeatureLoss(Halves(), criterion, 0.1)
    restored, clear = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    features = Halves()
    expected = 0.1 * (features(restored) - features(clear)).abs().pow(power).mean()
    value = loss(restored, clear)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert restored.grad.abs().sum() > 0 and clear.grad is None


def test_the_extractor_is_frozen_moves_along_and_is_not_saved():
    extractor = Halves()
    loss = FeatureLoss(extractor).double()
    assert not list(loss.parameters()) and not loss.state_dict()
    assert extractor.weight.dtype == torch.float64 and not extractor.weight.requires_grad


def test_feature_loss_mistakes():
    with pytest.raises(OptionError, match="did you mean 'l1'"):
        FeatureLoss(Halves(), "L1")
    with pytest.raises(OptionError, match=r"FeatureLoss\.extractor"):
        FeatureLoss({"type": "LightCNN9Feature"})
