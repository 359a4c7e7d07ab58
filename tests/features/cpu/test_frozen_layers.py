from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import SelectAdaptivePool2d, create_conv2d
from torch import nn

from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.cpu.frozen_layers import FrozenMean, FrozenReLU6, StridedDepthwise, replace_layers


def depthwise(size, stride, padding, dtype=torch.float64):
    torch.manual_seed(0)
    conv = create_conv2d(6, 6, size, stride=stride, padding=padding, depthwise=True, bias=True)
    return conv.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(12, 18), (13, 17)])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 2, "same"), (5, 2, "same"), (7, 2, "same"), (7, 3, "same"), (3, 2, 1), (5, 2, 2), (4, 2, 1), (3, 3, 0)],
)
def test_equals_the_convolution(size, stride, padding, shape, layout):
    conv = depthwise(size, stride, padding)
    assert StridedDepthwise.fits(conv)
    maps = torch.rand(2, 6, *shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    expected, found = conv(maps), StridedDepthwise(conv)(maps)
    torch.testing.assert_close(found, expected)
    weights = torch.rand_like(found)
    gradients = [torch.autograd.grad(output, maps, weights)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].is_contiguous(memory_format=layout)


def test_gradient():
    maps = torch.rand(1, 6, 6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(StridedDepthwise(depthwise(5, 2, "same")), maps)
    assert torch.autograd.gradcheck(FrozenReLU6(inplace=False), 8 * maps - 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mean_over_the_positions(layout):
    torch.manual_seed(0)
    maps = torch.rand(2, 6, 5, 4, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    pooling = SelectAdaptivePool2d(pool_type="avg", flatten=True)
    assert FrozenMean.fits(pooling)
    torch.testing.assert_close(FrozenMean()(maps), pooling(maps))
    # What comes before is given one gradient for all positions, in a tensor without memory for each.
    for before in (nn.Identity(), nn.ReLU6(), nn.Conv2d(6, 3, 3).double(), FrozenReLU6(inplace=False)):
        weights = torch.rand_like(FrozenMean()(before(maps)))
        gradients = [torch.autograd.grad(mean(before(maps)), maps, weights)[0] for mean in (FrozenMean(), pooling)]
        torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(FrozenMean(), maps)
    for other in (
        {"pool_type": "max"},
        {"pool_type": "avg", "flatten": False},
        {"pool_type": "avg", "output_size": 2},
        {"pool_type": "avg", "input_fmt": "NHWC"},
        {"pool_type": ""},
    ):
        assert not FrozenMean.fits(SelectAdaptivePool2d(**{"flatten": True, **other}))


def test_in_bfloat16():
    conv = depthwise(5, 2, "same", torch.float32)
    maps = torch.rand(2, 6, 16, 16, requires_grad=True)
    weights = torch.rand(2, 6, 8, 8)
    (expected,) = torch.autograd.grad(conv(maps), maps, weights)
    with torch.autocast("cpu", torch.bfloat16):
        output = StridedDepthwise(conv)(maps)
    assert output.dtype == torch.bfloat16
    (found,) = torch.autograd.grad(output, maps, weights.bfloat16())
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1),
        nn.Conv2d(6, 12, 3, 2, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 0, groups=6),  # loses cells at the border
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, 2, 2, dilation=2, groups=6),
        nn.ReLU(),
    ],
)
def test_other_layers_stay(module):
    assert not StridedDepthwise.fits(module)
    assert replace_layers(nn.Sequential(module)) == 0


@pytest.mark.parametrize("inplace", [False, True])
def test_relu6(inplace):
    values = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0], requires_grad=True)
    given = values * 1
    result = FrozenReLU6(inplace)(given)
    assert result.tolist() == [0, 0, 0.5, 6, 6] and (result is given) == inplace
    (gradient,) = torch.autograd.grad(result.sum(), values)
    assert gradient.tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "mobilenetv2_035"])
def test_networks(model):
    torch.manual_seed(0)
    plain = build_extractor({"type": "TimmFeatures", "model": model, "weights": None, "fold": False}, "test").double()
    replaced = copy.deepcopy(plain)
    assert replace_layers(replaced) > 10
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64, requires_grad=True)
    found = []
    for extractor in (plain, replaced):
        features = extractor(images)
        found.append((features, *torch.autograd.grad((features * features.detach()).sum(), images)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_folding_replaces_layers():
    extractor = build_extractor({"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}, "test")
    kinds = [type(module) for module in extractor.modules()]
    assert kinds.count(StridedDepthwise) == 4 and kinds.count(nn.ReLU6) == 0 and kinds.count(FrozenMean) == 1


def test_compiled():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU6(True), depthwise(5, 2, "same", torch.float32))
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(network(images).square().sum(), images)
    assert replace_layers(network) == 2
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(images).square().sum(), images)[0], expected)
