from __future__ import annotations

import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses.feature_loss import FeatureLoss
from d2sm_plugin.losses.reduced_loss import ReducedLoss
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


def test_reduced_target():
    loss = build(LOSS_REGISTRY, {"type": "ReducedLoss", "criterion": {"type": "MSELoss"}, "loss_weight": 0.5}, "x")
    output, target = torch.rand(2, 3, 4, 6), torch.rand(2, 3, 8, 24)
    means = target.unflatten(3, (6, 4)).unflatten(2, (4, 2)).mean((3, 5))
    torch.testing.assert_close(loss(output, target), 0.5 * (output - means).square().mean())
    assert ReducedLoss(nn.MSELoss())(target, target) == 0
    # A padded output is no whole fraction of its target: 58 rows of 460 pixels are a quarter of 464.
    assert ReducedLoss(nn.L1Loss())(torch.ones(1, 1, 58, 8), torch.ones(1, 1, 230, 31)) == 0
    for wrong in ((2, 3, 9, 24), (1, 3, 4, 4), (2, 1, 4, 4)):
        with pytest.raises(ShapeError, match="ReducedLoss: expected an output no larger than the target"):
            loss(torch.rand(wrong), target)
    with pytest.raises(OptionError, match=r"ReducedLoss\.criterion\.type"):
        ReducedLoss({"type": "MSELos"})


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


class Blocks(Halves):
    """Has positions too: every 2x2 block of pixels."""

    def feature_map(self, images):
        return self.weight * nn.functional.pixel_unshuffle(images, 2)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_distance_of_feature_maps(criterion, power):
    restored, clear = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    loss = FeatureLoss(Blocks(), criterion, 0.5, spatial=True)
    value = loss(restored, clear)
    torch.testing.assert_close(value, 0.5 * (restored - clear).abs().pow(power).mean())
    value.backward()
    assert restored.grad.abs().sum() > 0 and clear.grad is None
    assert (FeatureLoss(Blocks(), criterion, 0.5)(restored, clear) - value).abs() > 1e-4
    with pytest.raises(OptionError, match=r"FeatureLoss\.spatial: Halves gives no feature map"):
        FeatureLoss(Halves(), spatial=True)


def test_gradient_of_feature_maps():
    restored, clear = (torch.rand(1, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    loss = FeatureLoss(Blocks().double(), "l2", spatial=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, clear), (restored.requires_grad_(),))


def test_equals_basicsrs_perceptual_loss(monkeypatch, tmp_path):
    """With the same weights; features before the ReLU, ImageNet statistics inside, as the names of layers say.

    Its criterion l2 asks torch.nn for a class that is not there, so l1 is all that it can be compared in.
    """
    layers = {"conv2_2": 0.5, "conv5_4": 1.0}
    from basicsr.archs import vgg_arch
    from torchvision.models import vgg19

    torch.manual_seed(0)
    with torch.device("meta"):
        features = vgg19(weights=None, init_weights=False).features.to_empty(device="cpu")
    for module in features:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save(state, tmp_path / "vgg19.pth")
    monkeypatch.setattr(vgg_arch, "VGG_PRETRAIN_PATH", str(tmp_path / "whole.pth"))
    with torch.device("meta"):
        classifier = {f"classifier.{name}": t for name, t in vgg19(weights=None).classifier.state_dict().items()}
    whole = state | {name: torch.zeros(1).expand(t.shape) for name, t in classifier.items()}
    torch.save(whole, tmp_path / "whole.pth")  # a file of a few kB more: the zeros are one number
    of_host = build(
        LOSS_REGISTRY,
        {"type": "PerceptualLoss", "layer_weights": layers, "criterion": "l1", "perceptual_weight": 0.2},
        "x",
    )
    blocks = [{"type": "VGG19Features", "layer": layer, "weights": str(tmp_path / "vgg19.pth")} for layer in layers]
    restored, clear = (torch.rand(2, 3, 32, 32) for _ in range(2))
    expected, style = of_host(restored.requires_grad_(), clear)
    assert style is None
    for spatial in (True, False):  # flattened maps have the same mean
        by_layer = [
            FeatureLoss(block, "l1", 0.2 * weight, spatial)
            for block, weight in zip(blocks, layers.values(), strict=True)
        ]
        value = sum(loss(restored, clear) for loss in by_layer)
        torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, restored)
    (wanted,) = torch.autograd.grad(expected, restored)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-9)
