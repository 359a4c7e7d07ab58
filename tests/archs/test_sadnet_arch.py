from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from formula_values import formula_images, formula_state, probe
from published_shapes import sadnet

from d2sm_plugin.archs.sadnet_arch import ARCH_REGISTRY, DeformableConv, SADNet
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

#: Outputs of the authors' module (mean, deviation, five values) for the formula weights and images.
RECORDED = {
    (16, 24): [-0.2715698345, 0.8356113869, 0.0884979303, 0.7966990964, 0.09485625011, 0.6099032485, -0.03824834971],
    (32, 40): [-0.3035758891, 0.8571638517, 0.1081443858, -0.3125668315, 0.0136335747, 0.4994875934, -0.259428111],
}
#: Parameters of the parts, from the authors' module.
PARTS = {
    "encoders": [18_624, 73_856, 295_168, 1_180_160],
    "downs": [8_256, 32_896, 131_328],
    "ups": [8_224, 32_832, 131_200],
    "merges": [2_080, 8_256, 32_896],
    "offsets": [36_960, 46_176, 64_608, 83_008],
    "decoders": [80_920, 136_280, 357_592, 1_242_584],
    "context": 229_952,
    "last": 867,
}


@pytest.fixture(scope="module")
def published():
    """A network with formula weights, given to it under their published names."""
    network = SADNet().double().eval()
    network.load_state_dict(network.convert_state_dict(formula_state(sadnet())))
    return network


def zero_head(layer: DeformableConv) -> DeformableConv:
    torch.nn.init.zeros_(layer.head.weight)
    torch.nn.init.zeros_(layer.head.bias)
    return layer


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_count():
    network = build(ARCH_REGISTRY, {"type": "SADNet"}, "network_g")
    assert count(network) == 4_234_723
    assert len(network.state_dict()) == len(sadnet()) == 96
    for name, expected in PARTS.items():
        part = getattr(network, name)
        assert ([count(module) for module in part] if isinstance(expected, list) else count(part)) == expected


@torch.inference_mode()
@pytest.mark.parametrize("size", RECORDED)
def test_outputs_equal_those_of_the_published_module(published, size):
    assert probe(published(formula_images(2, 3, *size))) == pytest.approx(RECORDED[size], abs=1e-9)


@torch.inference_mode()
def test_float32_agrees_with_float64():
    network = SADNet()
    network.load_state_dict(network.convert_state_dict(formula_state(sadnet())))
    restored = network(formula_images(2, 3, 16, 24).float())
    assert probe(restored.double()) == pytest.approx(RECORDED[16, 24], abs=1e-5)


def test_loads_published_files(tmp_path):
    torch.save({name: torch.zeros(shape) for name, shape in sadnet().items()}, tmp_path / "model_0200_dict.pth")
    network = SADNet()
    assert load_weights(network, tmp_path / "model_0200_dict.pth") == []
    assert not any(parameter.any() for parameter in network.parameters())
    assert set(SADNet.convert_state_dict(network.state_dict())) == set(network.state_dict())


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (8, 3), (33, 41)])
def test_any_size_by_padding_and_cropping(published, size):
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    height, width = size
    padded = F.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
    torch.testing.assert_close(published(images), published(padded)[..., :height, :width])


def test_offset_heads_start_from_xavier_not_from_zero():
    torch.manual_seed(0)
    network = SADNet()
    for decoder in network.decoders:
        head, channels = decoder.deform.head, decoder.deform.weight.shape[0]
        bound = math.sqrt(6 / (9 * 32 + 9 * 216))
        assert 0.9 * bound < head.weight.abs().max() <= bound
        assert not head.bias.any()
        assert not decoder.deform.bias.any()
        assert 0.9 < decoder.deform.weight.abs().max() * math.sqrt(9 * channels) <= 1


def test_deformable_convolution_with_a_zero_head_is_half_a_convolution():
    torch.manual_seed(0)
    layer = zero_head(DeformableConv(16, 4))
    torch.nn.init.constant_(layer.bias, 0.25)
    features = torch.rand(2, 16, 7, 9)
    expected = 0.5 * F.conv2d(features, layer.weight, padding=1) + 0.25
    torch.testing.assert_close(layer(features, torch.rand(2, 4, 7, 9)), expected)


def test_offsets_are_pairs_of_dy_and_dx_per_group_and_tap():
    """Group 2 of 8 alone is moved, by one row down and two columns to the right; its masks are open, others half."""
    torch.manual_seed(0)
    layer = zero_head(DeformableConv(16, 4)).double()
    with torch.no_grad():
        layer.head.bias[2 * 18 : 3 * 18 : 2] = 1
        layer.head.bias[2 * 18 + 1 : 3 * 18 : 2] = 2
        layer.head.bias[144 + 2 * 9 : 144 + 3 * 9] = 50
    features = torch.rand(1, 16, 12, 12, dtype=torch.float64)
    moved = 0.5 * features
    moved[:, 4:6] = features[:, 4:6].roll((-1, -2), (-2, -1))
    expected = F.conv2d(moved, layer.weight, padding=1)
    actual = layer(features, torch.rand(1, 4, 12, 12, dtype=torch.float64))
    torch.testing.assert_close(actual[..., 1:9, 1:8], expected[..., 1:9, 1:8])


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = SADNet(num_feat=8, num_offset_feat=8)
    network(torch.rand(1, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.offsets[0].join[0].weight.grad.any()


@torch.inference_mode()
def test_runs_under_autocast():
    torch.manual_seed(0)
    network, images = SADNet(), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        restored = network(images)
    torch.testing.assert_close(restored.float(), network(images), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"), [({"num_feat": 12}, "multiple of 8"), ({"num_out_ch": 1}, "must be equal")]
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        SADNet(**options)
