from __future__ import annotations

import pytest
import torch

from d2sm_plugin.archs.lightcnn_arch import LightCNN9
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.lightcnn9_features import LightCNN9Features
from d2sm_plugin.registry import FEATURE_REGISTRY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A published checkpoint in small: grey, few identities, saved from DataParallel."""
    torch.manual_seed(0)
    network = LightCNN9(num_classes=3).eval()
    path = tmp_path_factory.mktemp("weights") / "LightCNN_9Layers_checkpoint.pth.tar"
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 80, "arch": "LightCNN", "prec1": 0.0}, path)
    return path, network


def test_equals_the_descriptor_of_the_grey_face(checkpoint):
    path, network = checkpoint
    extractor = build_extractor({"type": "LightCNN9Features", "weights": str(path)}, "extractor")
    assert "LightCNN9Features" in FEATURE_REGISTRY
    images = torch.rand(2, 3, 128, 128)
    grey = 0.299 * images[:, 0:1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:3]
    features = extractor(images)
    assert features.shape == (2, 256)
    torch.testing.assert_close(features, network.descriptor(grey))


def test_frozen_but_gradients_reach_the_images(checkpoint):
    extractor = LightCNN9Features(weights=checkpoint[0]).train()
    assert not extractor.training and not any(p.requires_grad for p in extractor.parameters())
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    extractor(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_other_layer_color_and_size(tmp_path):
    extractor = LightCNN9Features(layer="pool4", color="rgb")
    assert sum(p.numel() for p in extractor.parameters()) == 1_290_848
    torch.save(extractor.state_dict(), tmp_path / "LightCNN_feature.pth")
    again = LightCNN9Features(layer="pool4", color="rgb", weights=tmp_path / "LightCNN_feature.pth")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again(images), extractor(images))
    assert again(images).shape == (1, 8192)
    assert again.feature_map(images).shape == (1, 128, 8, 8)
    with pytest.raises(CheckpointError, match=r"holds no tensor fc1.*or layer 'pool4'"):
        LightCNN9Features(color="rgb", weights=tmp_path / "LightCNN_feature.pth")
    with pytest.raises(CheckpointError, match="give the other color"):
        LightCNN9Features(layer="pool4", weights=tmp_path / "LightCNN_feature.pth")


def test_arguments_and_images_that_do_not_fit():
    with pytest.raises(OptionError, match="did you mean 'fc1'"):
        LightCNN9Features(layer="fc2")
    with pytest.raises(OptionError, match="did you mean 'gray'"):
        LightCNN9Features(color="grey")
    with pytest.raises(ShapeError, match="square faces; got 96x128"):
        LightCNN9Features()(torch.rand(1, 3, 96, 128))
