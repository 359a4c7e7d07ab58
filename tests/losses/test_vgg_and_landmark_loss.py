from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.losses.landmark_loss import HeatmapLoss, LandmarkAttentionLoss
from d2sm_plugin.losses.vgg_loss import VGGLoss
from d2sm_plugin.registry import ARCH_REGISTRY, build


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """Random weights of VGG16's convolutions, by torchvision's names, and their file."""
    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs["D"][:8])  # up to relu3_2
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, file)
    return features, file


@pytest.mark.parametrize(
    ("images", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("unit", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("signed", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_vgg_loss_is_the_weighted_squared_distance(vgg16, images, mean, std):
    features, file = vgg16
    loss = VGGLoss({"relu1_2": 0.5, "conv3_2": 2.0}, images=images, weights=file, loss_weight=0.1)
    restored, clear = torch.rand(2, 2, 3, 32, 32)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (mean, std))
    expected = 0
    for stop, weight in ((4, 0.5), (13, 2.0)):  # relu1_2 and conv3_2 are the fourth and the thirteenth module
        maps = [features[:stop]((faces - mean) / std) for faces in (restored, clear)]
        expected = expected + 0.1 * weight * F.mse_loss(*maps)
    value = loss(restored.requires_grad_(), clear.requires_grad_())
    torch.testing.assert_close(value, expected)
    value.backward()
    assert restored.grad.abs().sum() > 0 and clear.grad is None
    assert loss.state_dict() == {} and list(loss.parameters()) == []


def test_layers_of_every_vgg():
    for vgg_type, last in (("vgg11", "relu5_2"), ("vgg13", "relu5_2"), ("vgg16", "relu5_3"), ("vgg19", "relu5_4")):
        assert VGGLoss({last: 1.0}, vgg_type, weights=None).network.names.popitem()[1] == last


def test_vgg_loss_of_what_there_is_not(vgg16, tmp_path):
    with pytest.raises(OptionError, match=r"VGGLoss\.layers: vgg16 has no 'relu3_4'; did you mean"):
        VGGLoss({"relu3_4": 1.0})
    with pytest.raises(OptionError, match=r"VGGLoss\.vgg_type: 'vgg15' is unknown"):
        VGGLoss({"relu3_3": 1.0}, "vgg15")
    with pytest.raises(OptionError, match=r"VGGLoss\.images: 'unity' is unknown; did you mean 'unit'"):
        VGGLoss({"relu3_3": 1.0}, images="unity")
    with pytest.raises(CheckpointError, match=r"no weights of torchvision's vgg16; features\.14\.weight is missing"):
        VGGLoss({"relu4_1": 1.0}, weights=vgg16[1])


def test_attention_is_to_the_nearest_landmark():
    restored, clear = torch.rand(2, 2, 3, 8, 8)
    heatmaps = torch.rand(2, 5, 2, 2)
    near = F.interpolate(heatmaps.amax(1, keepdim=True), (8, 8), mode="bilinear", align_corners=False)
    expected = 3 * ((restored - clear).abs() * near).sum() / restored.numel()
    torch.testing.assert_close(LandmarkAttentionLoss(3.0)(restored, clear, heatmaps), expected)
    everywhere = LandmarkAttentionLoss()(restored, clear, torch.ones(2, 5, 2, 2))
    torch.testing.assert_close(everywhere, F.l1_loss(restored, clear))
    with pytest.raises(ShapeError, match=r"LandmarkAttentionLoss: expected images of one shape"):
        LandmarkAttentionLoss()(restored, clear, heatmaps[:1])


def test_heatmap_loss_compares_what_a_frozen_network_finds(tmp_path):
    network = {"type": "StackedHourglass", "num_points": 5, "num_stack": 1, "num_feat": 8}
    finder: nn.Module = build(ARCH_REGISTRY, network, "x").eval()
    torch.save({"params": finder.state_dict()}, tmp_path / "hourglass.pth")
    loss = HeatmapLoss(network, tmp_path / "hourglass.pth", 50.0)
    restored, clear = torch.rand(2, 1, 3, 64, 64)
    expected = 50 * F.mse_loss(finder(restored)["heatmaps"], finder(clear)["heatmaps"])
    value = loss.train()(restored.requires_grad_(), clear)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert restored.grad.abs().sum() > 0
    assert loss.state_dict() == {} and not loss.network.training
