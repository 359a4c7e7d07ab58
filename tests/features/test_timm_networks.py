"""Networks of timm of every kind on images of any size, by name and as objects."""

from __future__ import annotations

import pytest
import timm
import torch

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.features import TimmFeatures, build_extractor
from d2sm_plugin.losses import D2SMLoss

#: Name -> side of a patch, width of its features. Random weights; the smallest of each family.
TRANSFORMERS = {
    "vit_tiny_patch16_224": (16, 192),
    "vit_small_patch14_dinov2": (14, 384),
    "vit_small_patch16_dinov3": (16, 384),
    "vit_xsmall_patch16_clip_224": (16, 256),
    "deit_tiny_distilled_patch16_224": (16, 192),
    "eva02_tiny_patch14_224": (14, 192),
    "swin_tiny_patch4_window7_224": (32, 768),
    "swinv2_tiny_window8_256": (32, 768),
}


def images(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=TRANSFORMERS)
def transformer(request):
    if not timm.is_model(request.param):
        pytest.skip(f"timm {timm.__version__} has no {request.param}")
    torch.manual_seed(0)
    return TimmFeatures(request.param, weights=None), *TRANSFORMERS[request.param]


def test_transformers_take_any_size(transformer):
    extractor, patch, width = transformer
    for height, right in ((96, 96), (100, 131)):
        restored = images(height, right).requires_grad_()
        vector = extractor(restored)
        maps = extractor.feature_map(restored)
        assert vector.shape == (1, width)
        assert maps.shape == (1, width, -(-height // patch), -(-right // patch))
        (maps[:, ::3].sum() + vector[:, ::3].sum()).backward()
        assert restored.grad[..., -1, -1].abs().sum() > 0  # the last row and column are seen


def test_a_map_holds_the_last_tokens(transformer):
    extractor = transformer[0]
    native = images(*extractor.network.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        maps = extractor.feature_map(native)
        tokens = extractor.network.forward_features(extractor.normalise(native))
    prefix = getattr(extractor.network, "num_prefix_tokens", 0)
    tokens = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens[:, prefix:]
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens)


def test_padding_is_the_mean_colour(transformer):
    extractor = transformer[0]
    side = 8 * extractor.network.patch_embed.patch_size[0]
    small, padded = images(side - 3, side - 2), extractor.mean.expand(1, 3, side, side).clone()
    padded[..., : side - 3, : side - 2] = small
    with torch.no_grad():
        torch.testing.assert_close(extractor(small), extractor(padded), rtol=1e-4, atol=1e-4)


def test_the_native_size_is_as_before():
    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0).eval()
    torch.manual_seed(0)
    extractor, picture = TimmFeatures(name, weights=None), images(224, 224)
    with torch.no_grad():
        torch.testing.assert_close(extractor(picture), network((picture - 0.5) / 0.5))


@pytest.mark.parametrize("name", ["mixer_s32_224", "coatnet_nano_rw_224", "efficientformer_l1"])
def test_what_takes_one_size_says_so(name):
    extractor = TimmFeatures(name, weights=None)
    assert extractor(images(224, 224)).ndim == 2
    with pytest.raises(ShapeError, match=rf"'{name}' does not take images of 96x128 \(.*\); it takes 224x224: resize"):
        extractor(images(96, 128))
    with pytest.raises(RuntimeError, match="type"):  # no matter of size
        extractor(images(96, 128).double())


def test_a_network_without_a_map(monkeypatch):
    extractor = TimmFeatures("vit_tiny_patch16_224", weights=None)
    monkeypatch.delattr(type(extractor.network), "forward_intermediates")
    with pytest.raises(OptionError, match=r"are no map \(B, C, h, w\), but of shape \(1, 37, 192\); set 'stride'"):
        extractor.feature_map(images(96, 96))


@pytest.mark.parametrize("name", ["test_resnet", "vit_xsmall_patch16_clip_224"])
def test_a_network_of_timm_gets_its_own_mean_and_deviation(name):
    network = timm.create_model(name)
    extractor = build_extractor(network, "extractor")
    picture = images(*network.pretrained_cfg["input_size"][1:])
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert not torch.equal(mean, std) or name == "test_resnet"
    with torch.no_grad():
        expected = network.eval().forward_head(network.forward_features((picture - mean) / std), pre_logits=True)
        torch.testing.assert_close(extractor(picture), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(extractor, TimmFeatures) and extractor.model == name
    assert network.num_classes > 0 and all(parameter.requires_grad for parameter in network.parameters())


def test_a_transformer_made_for_one_size_says_how_to_take_any():
    loss = D2SMLoss(timm.create_model("vit_tiny_patch16_224"), patches="spatial")
    with pytest.raises(ShapeError, match=r"does not take images of 96x96 .* it takes 224x224: resize"):
        loss(images(96, 96), images(96, 96))
    ready = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True)
    assert D2SMLoss(ready, patches="spatial")(images(90, 100), images(90, 100)) == 0


def test_other_modules_are_left_alone():
    network = torch.nn.Sequential(timm.create_model("test_resnet"))
    assert build_extractor(network, "extractor") is network
    with pytest.raises(OptionError, match=r"TimmFeatures\.model: expected timm's name of a network, or .* Sequential"):
        TimmFeatures(network)
    features_only = timm.create_model("test_resnet", features_only=True)
    with pytest.raises(ShapeError, match=r"must give features \(B, D\); of images \(2, 3, 64, 64\) it made a list"):
        D2SMLoss(features_only)(images(64, 64, 2), images(64, 64, 2))
