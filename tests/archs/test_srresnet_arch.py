"""MSRResNetX8 against BasicSR's network by 4, of which it is an extension."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.utils.registry import ARCH_REGISTRY

import d2sm_plugin  # noqa: F401
from d2sm_plugin.archs.srresnet_arch import MSRResNetX8
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights


def test_parameter_count():
    with torch.device("meta"):
        network = build(ARCH_REGISTRY, {"type": "MSRResNetX8"}, "network_g")
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_665_283


def test_one_seed_gives_the_weights_of_the_network_by_4():
    torch.manual_seed(3)
    by_4 = MSRResNet(num_feat=8, num_block=2, upscale=4).state_dict()
    torch.manual_seed(3)
    by_8 = MSRResNetX8(num_feat=8, num_block=2).state_dict()
    assert all(torch.equal(by_8[name], tensor) for name, tensor in by_4.items())
    assert not torch.equal(by_8["upconv3.weight"], by_8["upconv2.weight"])
    assert set(by_8) - set(by_4) == {"upconv3.weight", "upconv3.bias"}


@torch.inference_mode()
def test_a_stage_that_only_enlarges_leaves_the_network_by_4(tmp_path):
    torch.manual_seed(0)
    by_4 = MSRResNet(num_feat=8, num_block=2, upscale=4)
    torch.save({"params": by_4.state_dict()}, tmp_path / "x4.pth")
    by_8 = MSRResNetX8(num_feat=8, num_block=2)
    left = load_weights(by_8, tmp_path / "x4.pth", strict=False)
    assert sorted(left) == ["upconv3.bias", "upconv3.weight"]
    by_8.upconv3.weight.zero_()
    for channel in range(8):  # each of its four sub-pixels is the channel itself
        by_8.upconv3.weight[4 * channel : 4 * channel + 4, channel, 1, 1] = 1
    features = []
    by_4.conv_hr.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].clone()))
    images = torch.rand(2, 3, 5, 7)
    by_4(images)
    enlarged = F.leaky_relu(F.interpolate(features[0], scale_factor=2, mode="nearest"), 0.1)
    detail = by_4.conv_last(F.leaky_relu(by_4.conv_hr(enlarged), 0.1))
    expected = detail + F.interpolate(images, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(by_8(images), expected, rtol=0, atol=1e-6)


def test_every_parameter_gets_a_gradient_and_other_channels_are_refused():
    network = MSRResNetX8(num_feat=4, num_block=1)
    restored = network(torch.rand(1, 3, 6, 9))
    assert restored.shape == (1, 3, 48, 72)
    restored.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(ShapeError, match=r"MSRResNetX8: expected images of shape \(B, 3, H, W\)"):
        network(torch.rand(1, 1, 6, 9))
