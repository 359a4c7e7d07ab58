from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import vgg19

from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.vgg19_features import LAYERS, VGG19Features

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def whole_network():
    """Torchvision's, random, with a classifier cut to size: its first layer alone has 100 million weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = vgg19(weights=None, init_weights=False)
    network.classifier = network.classifier[:5]
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.0)
            nn.init.eye_(module.weight)
            nn.init.uniform_(module.bias)
    return network.eval()


@pytest.fixture(scope="module")
def weight_file(whole_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({name: value for name, value in whole_network.state_dict().items() if "features" in name}, path)
    return path


def images(size=32, batch=2):
    torch.manual_seed(1)
    return torch.rand(batch, 3, size, size)


@pytest.mark.parametrize(
    ("layer", "stop", "channels", "stride"),
    [
        ("conv1_1", 1, 64, 1),
        ("relu1_2", 4, 64, 1),
        ("pool1", 5, 64, 2),
        ("conv2_2", 8, 128, 2),
        ("conv3_2", 13, 256, 4),
        ("conv3_4", 17, 256, 4),
        ("pool3", 19, 256, 8),
        ("relu4_4", 27, 512, 8),
        ("conv5_4", 35, 512, 16),
        ("pool5", 37, 512, 32),
    ],
)
def test_layers_equal_slices_of_torchvisions_network(whole_network, weight_file, layer, stop, channels, stride):
    extractor = VGG19Features(layer, weight_file)
    expected = whole_network.features[:stop]((images() - MEAN) / STD)
    actual = extractor.feature_map(images())
    assert actual.shape == (2, channels, 32 // stride, 32 // stride)
    assert torch.equal(actual, expected)
    assert torch.equal(extractor(images()), expected.flatten(1))
    assert len(extractor.features) == stop and len(extractor.classifier) == 0


def test_mean_over_positions(weight_file):
    extractor = VGG19Features("conv4_1", weight_file, pooling="mean")
    torch.testing.assert_close(extractor(images()), extractor.feature_map(images()).mean((2, 3)))


@pytest.mark.slow
def test_penultimate_layer_equals_torchvisions(whole_network, tmp_path):
    path = tmp_path / "vgg19.pth"
    torch.save(whole_network.state_dict(), path)
    pooled = whole_network.avgpool(whole_network.features((images(64) - MEAN) / STD)).flatten(1)
    for layer, stop in (("fc6", 2), ("fc7", 5)):
        extractor = VGG19Features(layer, path)
        actual = extractor.train()(images(64))
        assert actual.shape == (2, 4096)
        assert torch.equal(actual, whole_network.classifier[:stop](pooled))
    with pytest.raises(OptionError, match="'fc7' has no positions to sample; choose a map"):
        extractor.feature_map(images(64))


def test_names_of_timm(weight_file):
    """Its fully connected layers are convolutions."""
    state = torch.load(weight_file, weights_only=True)
    fc6 = torch.randn(2, 512, 7, 7)
    state |= {
        f"pre_logits.fc{i}.{part}": fc6 if part == "weight" else fc6[:, 0, 0, 0]
        for i in (1, 2)
        for part in ("weight", "bias")
    }
    named = VGG19Features("conv1_1", None)._named(state, "file")
    assert torch.equal(named["classifier.0.weight"], fc6.flatten(1)) and "classifier.3.bias" in named


def test_the_two_parts_make_the_whole(weight_file):
    extractor = VGG19Features("conv4_2", weight_file)
    for stride in (2, 4, 8):
        early, late = extractor.split(stride)
        maps = early(images())
        assert maps.shape[-2:] == (32 // stride, 32 // stride)
        assert torch.equal(late(maps), extractor(images()))
    with pytest.raises(OptionError, match="up to layer 'conv4_2' no map has stride 16; there are 2, 4, 8"):
        extractor.split(16)


def test_frozen_and_in_eval_mode_with_a_gradient_to_the_images(weight_file):
    extractor = VGG19Features("relu2_1", weight_file).train()
    assert not extractor.training and not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    restored = images().requires_grad_()
    extractor(restored).sum().backward()
    assert restored.grad.abs().sum() > 0
    assert not any(name in ("mean", "std") for name in extractor.state_dict())


def test_weights_of_the_first_layers_with_the_normalisation_in_front(shared):
    """Such files pad by reflection, so borders differ; inside, the values are those of the plain chain."""
    path = shared / "weights/vgg19_normalised_conv3_1.pth"
    state = torch.load(path, weights_only=True)
    hidden = nn.functional.conv2d(images(64), state["0.weight"], state["0.bias"])
    for index, pooled in (("2", False), ("5", True), ("9", False), ("12", True)):
        padded = nn.functional.pad(hidden, (1, 1, 1, 1), mode="reflect")
        hidden = nn.functional.conv2d(padded, state[f"{index}.weight"], state[f"{index}.bias"]).relu()
        if pooled:
            hidden = nn.functional.max_pool2d(hidden, 2)
    actual = VGG19Features("pool2", path).feature_map(images(64))
    inside = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(actual[inside], hidden[inside], rtol=1e-4, atol=1e-4)


def test_weights_that_end_too_early(shared):
    path = shared / "weights/vgg19_normalised_conv3_1.pth"
    assert VGG19Features("conv3_1", path).feature_map(images()).shape == (2, 256, 8, 8)
    with pytest.raises(CheckpointError, match=r"conv3_1\.pth: holds no conv3_2 .*choose an earlier layer"):
        VGG19Features("conv3_2", path)
    with pytest.raises(CheckpointError, match="holds no conv3_2"):
        VGG19Features("fc7", path)


def test_weights_of_something_else(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.rand(64, 3, 5, 5), "features.0.bias": torch.rand(64)}, path)
    with pytest.raises(CheckpointError, match=r"other\.pth: conv1_1 has the shape \(64, 3, 5, 5\), expected"):
        VGG19Features("conv1_1", path)
    torch.save({"fc.weight": torch.rand(4, 4), "fc.bias": torch.rand(4)}, path)
    with pytest.raises(CheckpointError, match="expected the convolutions of VGG19, each with weight and bias"):
        VGG19Features("conv1_1", path)
    with pytest.raises(CheckpointError, match="no such file"):
        VGG19Features("conv1_1", tmp_path / "absent.pth")


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def refuse(self, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.VGG19_Weights.get_state_dict", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(no route to host\); copy https://.*vgg19"):
        VGG19Features("conv1_1")


def test_exceptions():
    with pytest.raises(OptionError, match=r"VGG19Features\.layer: no layer 'conv5-4'; did you mean 'conv5_4'"):
        VGG19Features("conv5-4")
    with pytest.raises(OptionError, match=r"VGG19Features\.pooling: 'avg' is unknown"):
        VGG19Features("conv1_1", None, "avg")
    with pytest.raises(ShapeError, match=r"takes RGB images \(B, 3, H, W\) in \[0, 1\]; got the shape \(2, 1, 8, 8\)"):
        VGG19Features("conv1_1", None)(torch.rand(2, 1, 8, 8))
    with pytest.raises(OptionError, match=r"perceptual\.extractor\.type: no feature .*did you mean 'VGG19Features'"):
        build_extractor({"type": "VGG16Features"}, "perceptual.extractor")
    assert len(LAYERS) == 39
