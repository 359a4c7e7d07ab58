from __future__ import annotations

import copy
import pickle

import pytest
import torch
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from torch import nn

from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.cpu import frozen_chain
from d2sm_plugin.features.cpu.frozen_chain import FrozenChain, chain_blocks
from d2sm_plugin.features.cpu.frozen_layers import replace_layers
from d2sm_plugin.features.folding import fold_batchnorm

KINDS = {
    "skip": lambda: InvertedResidual(6, 6, 3, act_layer=nn.ReLU6),
    "strided": lambda: InvertedResidual(6, 8, 5, stride=2, pad_type="same", act_layer=nn.ReLU6),
    "separable": lambda: DepthwiseSeparableConv(6, 6, 3, act_layer=nn.ReLU),
    "one": lambda: ConvBnAct(6, 6, 3, act_layer=nn.ReLU6),
    "strided first": lambda: DepthwiseSeparableConv(6, 8, 3, stride=2, pad_type="same", act_layer=nn.ReLU6),
}


def pair(kind, dtype=torch.float64):
    """A block with normalisations like those of a trained network, and its chain."""
    torch.manual_seed(0)
    plain = nn.Sequential(KINDS[kind]()).eval().requires_grad_(False)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.02, 0.1)):
                tensor.uniform_(low, high)
            module.bias.uniform_(-1, 2)
    plain = plain.to(dtype)
    chained = copy.deepcopy(plain)
    fold_batchnorm(chained, torch.zeros(1, 6, 8, 8, dtype=dtype))
    replace_layers(chained)
    assert chain_blocks(chained) == 1 and isinstance(chained[0], FrozenChain)
    return plain, chained


def maps(dtype=torch.float64, batch=5, size=(8, 12)):
    torch.manual_seed(1)
    values = 2 * torch.randn(batch, 6, *size, dtype=dtype)
    return values.contiguous(memory_format=torch.channels_last).requires_grad_()


def output_and_gradient(network, given):
    output = network(given)
    return output, *torch.autograd.grad(output, given, torch.linspace(-1, 1, output.numel()).to(output).view_as(output))


@pytest.mark.parametrize("buffer", [1, 2000, 2**20])  # one map, a few, all at a time
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_block(kind, dtype, buffer, monkeypatch):
    monkeypatch.setattr(frozen_chain, "_BUFFER", buffer)
    plain, chained = pair(kind, dtype)
    given = maps(dtype)
    expected, found = output_and_gradient(plain, given), output_and_gradient(chained, given)
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, expected, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(chained(given), expected[0], **tolerance)
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in found)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind):
    assert torch.autograd.gradcheck(pair(kind)[1], maps(batch=2, size=(4, 4)))


def test_the_callers_gradient_stays():
    _, chained = pair("one")
    given = maps()
    output = chained(given)
    gradient = torch.ones_like(output)
    torch.autograd.grad(output, given, gradient)
    assert (gradient == 1).all()


@pytest.mark.parametrize("case", ["plain layout", "uneven", "autocast"])
def test_what_it_does_not_serve_takes_the_block(case, monkeypatch):
    plain, chained = pair("strided", torch.float32)
    monkeypatch.setattr(frozen_chain, "FrozenConv", None)
    given = maps(torch.float32, size=(7, 8) if case == "uneven" else (8, 8))
    given = given.contiguous() if case == "plain layout" else given
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        tolerance = 0.1 if case == "autocast" else 1e-4
        torch.testing.assert_close(chained(given), plain(given), rtol=tolerance, atol=tolerance)


def test_weights_that_change_and_copies():
    _, chained = pair("skip", torch.float32)
    given = maps(torch.float32)
    before = chained(given)
    for copied in (copy.deepcopy(chained), pickle.loads(pickle.dumps(chained))):
        torch.testing.assert_close(copied(given), before)
    chained[0].block.conv_pwl.weight.mul_(2)
    chained[0].block.conv_pwl.bias.mul_(2)
    torch.testing.assert_close(chained(given) - given, 2 * (before - given), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chained.double()(given.double()).float(), chained.float()(given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "block",
    [
        InvertedResidual(6, 6, 3, act_layer=nn.SiLU),
        InvertedResidual(6, 6, 3, act_layer=nn.ReLU6, se_layer=lambda *_, **__: nn.Sigmoid()),
        ConvBnAct(6, 6, 3, stride=2, act_layer=nn.ReLU6),
        ConvBnAct(6, 6, 3, act_layer=nn.ReLU6, skip=True),  # the shortcut is added behind the clamp
        ConvBnAct(6, 6, 3, dilation=2, act_layer=nn.ReLU6),
    ],
)
def test_other_blocks_stay(block):
    network = nn.Sequential(block).eval()
    fold_batchnorm(network, torch.zeros(1, 6, 8, 8))
    assert chain_blocks(network) == 0
    assert chain_blocks(nn.Sequential(InvertedResidual(6, 6, 3, act_layer=nn.ReLU6)).eval()) == 0  # not folded


@pytest.mark.parametrize(("model", "count"), [("tf_efficientnet_lite0", 17), ("mobilenetv2_035", 18)])
def test_networks(model, count):
    block = {"type": "TimmFeatures", "model": model, "weights": None}
    torch.manual_seed(0)
    plain = build_extractor({**block, "fold": False}, "test").to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    chained = build_extractor(block, "test").to(memory_format=torch.channels_last)
    assert sum(isinstance(module, FrozenChain) for module in chained.modules()) == count
    images = torch.rand(2, 3, 64, 96).contiguous(memory_format=torch.channels_last).requires_grad_()
    expected, found = (output_and_gradient(network, images) for network in (plain, chained))
    assert all((a - b).norm() < 1e-4 * b.norm() for a, b in zip(found, expected, strict=True))
