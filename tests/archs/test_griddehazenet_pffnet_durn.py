"""Three dehazing networks whose authors' PyTorch modules were run beside ours."""

from __future__ import annotations

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from formula_values import formula_images, formula_state, formula_values, probe
from published_haze_shapes import durn, griddehazenet, pffnet

import d2sm_plugin  # noqa: F401
from d2sm_plugin.archs.durn_arch import DuRN
from d2sm_plugin.archs.griddehazenet_arch import GridDehazeNet
from d2sm_plugin.archs.pffnet_arch import PFFNet
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

SHAPES = {"GridDehazeNet": griddehazenet, "PFFNet": pffnet, "DuRN": durn}
#: Parameters, and tensors of the published checkpoints (PFFNet's has four of mean shifts that are never used).
SIZES = {"GridDehazeNet": (958_051, 223), "PFFNet": (20_853_076, 105 + 4), "DuRN": (9_070_915, 208)}
SMALL = {
    "GridDehazeNet": {"num_feat": 4, "growth": 4, "num_layers": 2},
    "PFFNet": {"num_feat": 4, "num_block": 2},
    "DuRN": {"num_feat": 4, "kernels": [5, 11]},
}
#: Mean, deviation and five values of formula_images(2, 3, height, width), by the authors' modules in float64.
RECORDED = {
    ("GridDehazeNet", 16, 24): [
        1.674371383, 2.070385315, 1.968204319, 0.0, 0.6891700336, 2.193999603, 0.4531882214,
    ],
    ("GridDehazeNet", 17, 22): [
        1.731418202, 2.095092037, 1.092539783, 0.0, 0.7506245549, 3.065132121, 0.0,
    ],
    ("PFFNet", 48, 64): [
        0.05265452427, 0.4450453957, -0.1793087168, 0.07598715884, 0.5270585438, 0.1457402978, 0.673127108,
    ],
    ("PFFNet", 37, 50): [
        0.05227398494, 0.4478452074, -0.3344464838, 0.1045211123, 0.557397023, -0.3195760757, 0.6682489826,
    ],
    ("DuRN", 16, 24): [
        0.3033771307, 0.9229652199, -0.4419931865, 1.78607096, -0.3296554305, 1.563541824, -0.4492292399,
    ],
    ("DuRN", 24, 32): [
        0.313263206, 0.9374732294, -0.4424005319, 1.39332271, -0.2954450521, 1.526178775, -0.6110758276,
    ],
}  # fmt: skip


def published_state(name: str) -> dict[str, torch.Tensor]:
    state = formula_state(SHAPES[name]())
    if "coefficient" in state:  # weights of streams, which are about 1
        state["coefficient"] = 1 + 0.5 * formula_values((3, 6, 2, 64), 7)
    return state


@pytest.fixture(scope="module", params=SHAPES)
def name(request):
    return request.param


def small(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(ARCH_REGISTRY, {"type": name, **SMALL[name]}, "network_g")


@torch.inference_mode()
def test_size_and_outputs_of_the_published_network(name, tmp_path):
    network = build(ARCH_REGISTRY, {"type": name}, "network_g")
    count, tensors = SIZES[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert len(SHAPES[name]()) == tensors
    path = tmp_path / "published.pth"
    torch.save({f"module.{key}": tensor for key, tensor in published_state(name).items()}, path)
    assert load_weights(network.double(), path) == []
    for (recorded, height, width), expected in RECORDED.items():
        if recorded == name:
            assert probe(network(formula_images(2, 3, height, width))) == pytest.approx(expected, abs=1e-9)


def test_own_names_stay(name):
    state = small(name).state_dict()
    assert list(type(small(name)).convert_state_dict(state)) == list(state)


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (16, 17), (33, 47)])
def test_any_height_and_width(name, size):
    network = small(name).eval()
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert network(images).shape == images.shape


def test_images_of_a_batch_do_not_mix(name):
    network = small(name).double().eval()
    images = formula_images(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network(images), torch.cat([network(image[None]) for image in images]), atol=1e-12)


def test_every_parameter_learns(name):
    network = small(name)
    if name == "GridDehazeNet":
        network.tail[1].bias.data.fill_(0.5)  # a ReLU at the end: keep it open
    network(torch.rand(2, 3, 32, 48)).square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bad_arguments_are_refused():
    with pytest.raises(OptionError, match="GridDehazeNet: num_feat, growth and num_layers must be at least 1"):
        GridDehazeNet(num_layers=0)
    with pytest.raises(OptionError, match="PFFNet: num_feat and num_block must be at least 1"):
        PFFNet(num_block=0)
    for arguments in ({"num_feat": 3}, {"kernels": []}, {"kernels": [4]}):
        with pytest.raises(OptionError, match="DuRN: num_feat must be even and at least 2, kernels odd"):
            DuRN(**arguments)


def test_grey_images_and_other_weights_are_refused(name, tmp_path):
    network = small(name)
    with pytest.raises(ShapeError, match=f"{name}: expected images"):
        network(torch.rand(1, 1, 32, 32))
    torch.save(published_state(name), tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=f"not a checkpoint of this {name}"):
        load_weights(network, tmp_path / "wide.pth")
