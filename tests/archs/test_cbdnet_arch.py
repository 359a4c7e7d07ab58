from __future__ import annotations

import numpy as np
import pytest
import torch
from formula_values import formula_images, formula_state, probe
from published_shapes import cbdnet_official, cbdnet_port

from d2sm_plugin.archs.cbdnet_arch import ARCH_REGISTRY, CBDNet
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

SHAPES = {"official": cbdnet_official, "port": cbdnet_port}

#: Restored images (mean, deviation, five values) of the published modules for the formula weights and images. The
#: official one was given the odd size mirrored to multiples of 4 by NumPy's "symmetric" mode.
RECORDED = {
    ("official", 16, 24): [
        0.5558516259, 0.3040550874, 0.5799226214, 0.8708273901, 0.4453011908, 0.6609610302, 0.3704469252,
    ],
    ("official", 17, 21): [
        0.5669299437, 0.3041679316, 0.5831064726, 0.779906074, 0.1067460377, 0.9275659987, 1.020525694,
    ],
    ("official", 2, 1): [
        0.575999268, 0.2885673332, 0.5908994224, 0.1842792668, 0.6183179326, 0.1204844717, 0.661795549,
    ],
    ("port", 16, 24): [
        0.381766749, 0.3361996415, 0.2832086668, 0.7932116924, 0.4784205952, 0.5462733783, 0.3681960398,
    ],
    ("port", 17, 22): [
        0.3833113622, 0.3365849345, 0.2709013314, 0.2175222472, 0.5521344508, 0.7385750064, 0.949533462,
    ],
    ("port", 37, 50): [
        0.3840019953, 0.3368701192, 0.2295429237, 0.8393328443, 0.3335907348, 0.3947427316, 0.7899055325,
    ],
}  # fmt: skip
#: The port's noise map at 17 x 22.
RECORDED_MAP = [0.05150967252, 0.05897492124, 0.0, 0.1200020966, 0.01289919404, 0.0, 0.03160316741]


@pytest.fixture(scope="module", params=["official", "port"])
def published(request):
    """A network with formula weights, given to it under their published names."""
    network = CBDNet(layout=request.param).double().eval()
    network.load_state_dict(network.convert_state_dict(formula_state(SHAPES[request.param]())))
    return network


@pytest.mark.parametrize(("layout", "count", "tensors"), [("official", 6_793_478, 60), ("port", 4_365_382, 48)])
def test_parameter_count(layout, count, tensors):
    network = build(ARCH_REGISTRY, {"type": "CBDNet", "layout": layout}, "network_g")
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert sum(parameter.numel() for parameter in network.estimator.parameters()) == 29_507
    assert len(network.state_dict()) == len(SHAPES[layout]()) == tensors


def test_official_layout_is_the_default():
    assert CBDNet(num_feat=8).layout == "official"


@torch.inference_mode()
def test_outputs_equal_those_of_the_published_module(published):
    sizes = [size for size in RECORDED if size[0] == published.layout]
    for layout, height, width in sizes:
        outputs = published(formula_images(2, 3, height, width))
        assert probe(outputs["restored"]) == pytest.approx(RECORDED[layout, height, width], abs=1e-9)
    if published.layout == "port":
        noise_map = published(formula_images(2, 3, 17, 22))["noise_map"]
        assert probe(noise_map) == pytest.approx(RECORDED_MAP, abs=1e-9)


@torch.inference_mode()
def test_float32_agrees_with_float64():
    network = CBDNet()
    network.load_state_dict(network.convert_state_dict(formula_state(cbdnet_official())))
    restored = network(formula_images(2, 3, 16, 24).float())["restored"]
    assert probe(restored.double()) == pytest.approx(RECORDED["official", 16, 24], abs=1e-5)


@pytest.mark.parametrize(
    ("layout", "wrap"),
    [
        ("official", lambda state: state),
        ("port", lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 1}),
    ],
)
def test_loads_published_files(tmp_path, layout, wrap):
    state = {name: torch.zeros(shape) for name, shape in SHAPES[layout]().items()}
    torch.save(wrap(state), tmp_path / "published.pth")
    network = CBDNet(layout=layout)
    assert load_weights(network, tmp_path / "published.pth") == []
    assert not any(parameter.any() for parameter in network.parameters())
    other = CBDNet(layout="port" if layout == "official" else "official")
    with pytest.raises(CheckpointError, match="not a checkpoint of this CBDNet"):
        load_weights(other, tmp_path / "published.pth")


@torch.inference_mode()
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (6, 9), (37, 50)])
def test_any_size(published, size):
    outputs = published(torch.rand(1, 3, *size, dtype=torch.float64))
    assert outputs["restored"].shape == outputs["noise_map"].shape == (1, 3, *size)
    assert (outputs["noise_map"] >= 0).all()


@torch.inference_mode()
def test_official_layout_mirrors_at_the_end(published):
    if published.layout == "port":
        pytest.skip("the port does not pad images")
    images = torch.rand(1, 3, 9, 6, dtype=torch.float64)
    mirrored = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (0, 3), (0, 2)), mode="symmetric"))
    torch.testing.assert_close(published(images)["restored"], published(mirrored)["restored"][..., :9, :6])


def test_gradients_reach_every_parameter():
    for layout in SHAPES:
        torch.manual_seed(0)
        network = CBDNet(num_feat=8, layout=layout)
        outputs = network(torch.rand(1, 3, 12, 12))
        (outputs["restored"].square().sum() + outputs["noise_map"].sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        assert network.unet.scale1[0][0].weight.grad.any()


def test_unknown_layout():
    with pytest.raises(OptionError, match="did you mean 'official'"):
        CBDNet(layout="offical")


def test_channels_in_and_out_must_agree():
    with pytest.raises(OptionError, match="must be equal"):
        CBDNet(num_in_ch=1)


def test_images_of_another_shape():
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\)"):
        CBDNet(num_feat=8)(torch.rand(3, 8, 8))
