from __future__ import annotations

import math

import pytest
import torch

from d2sm_plugin.archs.msbdn_arch import ARCH_REGISTRY, MSBDN
from d2sm_plugin.archs.msbdn_blocks import DenseFeatureFusion, RelaxedFusion, ResidualBlock
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights


def published_names(variant: str) -> list[str]:
    """The tensor names of the authors' module, in the order of its state dict."""

    def conv(name):
        return [f"{name}.weight", f"{name}.bias"]

    def block(name):
        return [*conv(f"{name}.conv1.conv2d"), *conv(f"{name}.conv2.conv2d"), f"{name}.relu.weight"]

    def group(name, count=3, prefix=""):
        return [item for index in range(count) for item in block(f"{name}.{prefix}{index}")]

    def fusion(name, steps, encoder):
        up = [
            x for j in range(steps) for x in (*conv(f"{name}.up_convs.{j}.deconv"), f"{name}.up_convs.{j}.act.weight")
        ]
        down = [
            x for j in range(steps) for x in (*conv(f"{name}.down_convs.{j}.conv"), f"{name}.down_convs.{j}.act.weight")
        ]
        return up + down if encoder else down + up

    def dense(name):
        return [*(f"{name}.dense_layers.{j}.conv.weight" for j in range(4)), f"{name}.conv_1x1.weight"]

    relaxed = variant == "rdff"
    names = conv("conv_input.conv2d") + group("dense0")
    for i in range(1, 5):
        names += conv(f"conv{2**i}x.conv2d") + (dense(f"conv{i}") if relaxed else []) + fusion(f"fusion{i}", i, True)
        names += group(f"dense{i}") if i < 4 else []
    names += group("dehaze", 18, "res")
    for step, i in enumerate(range(4, 0, -1), start=1):
        names += conv(f"convd{2**i}x.conv2d") + group(f"dense_{i}")
        names += (dense(f"conv_{i}") if relaxed else []) + fusion(f"fusion_{i}", step, False)
    return names + conv("conv_output.conv2d")


def formula_weights(names: list[str], shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights anyone can rebuild: value n of tensor k is sin(1 + 0.7 k + 1.3 n + 0.001 n²) / sqrt(fan-in)."""
    state = {}
    for k, name in enumerate(names):
        shape = shapes[name]
        n = torch.arange(math.prod(shape), dtype=torch.float64)
        wave = torch.sin(1 + 0.7 * k + 1.3 * n + 0.001 * n * n)
        if len(shape) == 4:
            transposed = "convd" in name or "deconv" in name
            fan_in = math.prod(shape[1:]) if not transposed else shape[0] * shape[2] * shape[3] / 4
            wave = wave / math.sqrt(fan_in)
        else:
            wave = 0.25 + 0.1 * wave if name.endswith(("relu.weight", "act.weight")) else 0.1 * wave
        state[name] = wave.reshape(shape).float()
    return state


def formula_images(batch: int, height: int, width: int) -> torch.Tensor:
    n = torch.arange(batch * 3 * height * width, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(0.37 * n + 0.0005 * n * n)).reshape(batch, 3, height, width).float()


def published_shapes(network: MSBDN, names: list[str]) -> dict[str, torch.Size]:
    position = MSBDN.convert_state_dict({name: torch.tensor(index) for index, name in enumerate(names)})
    tensors = network.state_dict()
    return {names[int(index)]: tensors[name].shape for name, index in position.items()}


#: Computed once with the authors' own modules (float64, CPU) on formula_weights and formula_images(1, 48, 64):
#: output[0, channel, row, column] at POSITIONS, then mean and standard deviation of the whole output.
POSITIONS = [(0, 0, 0), (1, 7, 13), (2, 24, 32), (0, 31, 50), (1, 47, 63), (2, 40, 5)]
RECORDED = {
    "dff": [0.4484758, 0.0879008, -3.9872896, -9.4706062, 1.2657096, 16.7067894, 0.206511, 5.4049108],
    "rdff": [-0.4765125, -0.7052528, 6.6573405, -2.9538223, -1.0973605, 5.7963279, -0.0220374, 3.0757557],
}


@pytest.fixture(scope="module", params=["dff", "rdff"])
def network(request) -> MSBDN:
    torch.manual_seed(0)
    return MSBDN(request.param).eval()


def test_size_of_the_published_networks(network):
    parameters = sum(parameter.numel() for parameter in network.parameters())
    expected = {"dff": (31_353_061, 350), "rdff": (28_712_861, 390)}[network.variant]
    assert (parameters, len(network.state_dict())) == expected


def test_published_names_map_one_to_one(network):
    names = published_names(network.variant)
    assert len(set(names)) == len(names) == len(network.state_dict())
    converted = MSBDN.convert_state_dict(dict.fromkeys(names, torch.zeros(())))
    assert set(converted) == set(network.state_dict())


def test_own_names_stay(network):
    state = network.state_dict()
    assert list(MSBDN.convert_state_dict(state)) == list(state)


def test_outputs_of_the_published_networks(network, tmp_path):
    names = published_names(network.variant)
    path = tmp_path / "published.pth"
    torch.save({"state_dict": formula_weights(names, published_shapes(network, names))}, path)
    fresh = MSBDN(network.variant).eval()
    assert load_weights(fresh, path) == []
    with torch.no_grad():
        output = fresh.double()(formula_images(1, 48, 64).double())
    got = [output[(0, *position)].item() for position in POSITIONS] + [output.mean().item(), output.std().item()]
    assert got == pytest.approx(RECORDED[network.variant], abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (16, 16), (33, 47), (48, 64)])
def test_any_height_and_width(network, size):
    small = MSBDN(network.variant, num_feat=4, num_block=1).eval()
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert small(images).shape == images.shape


def test_padding_mirrors_and_only_where_needed():
    small = MSBDN(num_feat=4, num_block=1).eval()
    images = torch.rand(2, 3, 32, 48)
    cut = images[..., :40]
    mirrored = torch.cat((cut, cut.flip(-1)), dim=-1)[..., :48]
    with torch.no_grad():
        assert torch.equal(small(images), small._restore(images))
        assert torch.equal(small(cut), small._restore(mirrored)[..., :40])


def test_images_of_a_batch_do_not_mix(network):
    small = MSBDN(network.variant, num_feat=4, num_block=2).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        alone = torch.cat([small(image[None]) for image in images])
        assert torch.allclose(small(images), alone, atol=1e-6)


def test_every_parameter_learns(network):
    small = MSBDN(network.variant, num_feat=4, num_block=1)
    small(torch.rand(1, 3, 32, 48)).square().mean().backward()
    silent = [name for name, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_fusion_adds_nothing_where_features_agree():
    """Back-projection corrects by the difference to the earlier feature; without it and biases nothing is added."""
    fusion = DenseFeatureFusion([8, 4], towards_finer=True)
    torch.nn.init.zeros_(fusion.back[0].conv.bias)
    feature = torch.rand(1, 8, 6, 6)
    fused, remembered = fusion(feature, [fusion.away[0](feature)])
    assert torch.equal(fused, feature)
    assert remembered is fused


def test_relaxed_fusion_keeps_the_halves_apart():
    fusion = RelaxedFusion([8, 16], towards_finer=False)
    feature, memory = torch.rand(1, 8, 8, 8), [torch.rand(1, 8, 4, 4)]
    fused, remembered = fusion(feature, memory)
    other, _ = fusion(torch.cat((feature[:, :4], torch.rand(1, 4, 8, 8)), dim=1), memory)
    assert torch.equal(fused[:, :4], remembered)
    assert torch.equal(fused[:, :4], other[:, :4])
    assert not torch.equal(fused[:, 4:], other[:, 4:])


def test_residual_block_gradient():
    block = ResidualBlock(2).double()
    assert torch.autograd.gradcheck(block, torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True))


def test_built_by_name_from_an_option_block():
    assert build(ARCH_REGISTRY, {"type": "MSBDN", "variant": "rdff", "num_feat": 4}, "network_g").variant == "rdff"


def test_bad_arguments_are_refused():
    with pytest.raises(OptionError, match="'rdf'; did you mean 'rdff'"):
        MSBDN("rdf")
    with pytest.raises(OptionError, match="num_feat must be even"):
        MSBDN(num_feat=5)
    with pytest.raises(ShapeError, match="MSBDN: expected images"):
        MSBDN(num_feat=2, num_block=1)(torch.rand(1, 1, 32, 32))


def test_weights_of_the_other_variant_are_refused(tmp_path):
    path = tmp_path / "rdff.pth"
    torch.save(MSBDN("rdff", num_feat=2, num_block=1).state_dict(), path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this MSBDN"):
        load_weights(MSBDN("dff", num_feat=2, num_block=1), path)


def test_a_pickled_module_is_refused_with_the_way_to_convert_it(tmp_path):
    path = tmp_path / "model.pkl"
    torch.save(MSBDN(num_feat=2, num_block=1), path)
    with pytest.raises(CheckpointError, match="convert it once"):
        load_weights(MSBDN(num_feat=2, num_block=1), path)
