from __future__ import annotations

import pytest
import torch
from formula_values import formula_images, formula_state
from torch.nn import functional as F

from d2sm_plugin.archs.dehaze_cgan_arch import DehazeCGAN, DehazeCGANDiscriminator
from d2sm_plugin.errors import OptionError, ShapeError


def with_formula_weights(network: torch.nn.Module) -> torch.nn.Module:
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if tensor.ndim}
    state = formula_state(shapes)
    positive = {name: 1 + tensor for name, tensor in state.items() if name.endswith("running_var")}
    network.double().load_state_dict(state | positive, strict=False)
    return network.eval()


def conv_norm(state, x, name, transposed=False):
    """A convolution 4x4 of stride 2 and a batch normalisation, by the formulas."""
    convolve = F.conv_transpose2d if transposed else F.conv2d
    x = convolve(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], stride=2, padding=1)
    weight, bias, mean, var = (
        state[f"{name}.1.{key}"][:, None, None] for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def by_the_layer_list(state, hazy):
    """The published list of layers: e0, e1 ... e8, then d1 ... d8 each with the encoder's feature added."""
    x = F.conv2d(2 * hazy - 1, state["head.0.weight"], state["head.0.bias"], padding=2)
    x = F.conv2d(F.leaky_relu(x, 0.2), state["head.2.weight"], state["head.2.bias"], padding=1)
    x = F.batch_norm(x, *(state[f"head.3.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))
    e = [x]
    for level in range(8):
        e.append(conv_norm(state, F.leaky_relu(e[-1], 0.2), f"encoder.{level}"))
    e = [F.leaky_relu(feature, 0.2) for feature in e]  # in place: what is added has passed the activation
    d = e[8]
    for level in range(8):
        d = conv_norm(state, F.relu(d), f"decoder.{level}", transposed=True)
        if level < 7:
            d = d + e[7 - level]
    x = F.conv2d(F.relu(d), state["tail.weight"], state["tail.bias"], padding=1)
    return (torch.tanh(x) + 1) / 2


def test_parameter_counts():
    with torch.device("meta"):
        networks = DehazeCGAN(), DehazeCGANDiscriminator()
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [123_147_715, 879_121]


@torch.inference_mode()
def test_output_equals_the_layer_list():
    network = with_formula_weights(DehazeCGAN(num_feat=2))
    hazy = formula_images(1, 3, 256, 512)
    expected = by_the_layer_list(network.state_dict(), hazy)
    assert expected.std() > 0.01
    torch.testing.assert_close(network(hazy), expected)


@torch.inference_mode()
def test_discriminator_judges_every_pixel():
    network = with_formula_weights(DehazeCGANDiscriminator(num_feat=2))
    state, images = network.state_dict(), formula_images(2, 6, 12, 10)
    x = 2 * images - 1
    for layer in (0, 3, 6, 9):
        x = F.conv2d(x, state[f"body.{layer}.weight"], state[f"body.{layer}.bias"], padding=1)
        parts = (state[f"body.{layer + 1}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        x = F.leaky_relu(F.batch_norm(x, *parts), 0.2)
    x = F.conv2d(x, state["body.12.weight"], state["body.12.bias"], padding=1)
    assert x.shape == (2, 1, 12, 10)
    torch.testing.assert_close(network(images), x)


@pytest.mark.parametrize("size", [(1, 1), (30, 300)])
@torch.inference_mode()
def test_any_height_and_width_within_the_range(size):
    restored = DehazeCGAN(num_feat=1).eval()(torch.rand(1, 3, *size))
    assert restored.shape == (1, 3, *size)
    assert restored.min() >= 0 and restored.max() <= 1


def test_every_parameter_learns_and_starts_as_published():
    torch.manual_seed(0)
    network = DehazeCGAN(num_feat=4)
    weight = network.encoder[5][0].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.encoder[6][1].weight.mean().item() == pytest.approx(1, abs=0.02)
    network(torch.rand(2, 3, 256, 256)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_bad_input_is_refused():
    with pytest.raises(OptionError, match="DehazeCGAN: num_feat must be at least 1"):
        DehazeCGAN(0)
    with pytest.raises(OptionError, match="DehazeCGANDiscriminator: num_in_ch and num_feat"):
        DehazeCGANDiscriminator(num_feat=0)
    with pytest.raises(ShapeError, match="one value at the coarsest scale; train with batch_size_per_gpu"):
        DehazeCGAN(1)(torch.rand(1, 3, 64, 64))
    with pytest.raises(ShapeError, match=r"DehazeCGANDiscriminator: expected images of shape \(B, 6, H, W\)"):
        DehazeCGANDiscriminator(num_feat=1)(torch.rand(1, 3, 8, 8))
