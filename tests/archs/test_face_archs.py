"""DICNet, the hourglass that judges it, LightCNN-9 and DICGAN's discriminator against the published modules.

The recorded figures were computed once by those modules with formula weights and images, in float64.
"""

from __future__ import annotations

import pytest
import torch
from formula_values import formula_images, probe
from published_face_shapes import dicnet, discriminator, face_state, lightcnn9, stacked_hourglass

from d2sm_plugin.archs.dicnet_arch import ARCH_REGISTRY, DICNet
from d2sm_plugin.archs.dicnet_blocks import merge_heatmaps
from d2sm_plugin.archs.face_images import FACE_MEAN
from d2sm_plugin.archs.lightcnn_arch import DICDiscriminator, LightCNN9
from d2sm_plugin.archs.stacked_hourglass_arch import StackedHourglass
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

#: Restored faces (64x64, shifted back) and heatmaps of steps 1 and 4.
RECORDED_DICNET = {
    0: (
        [0.4018510634, 0.2245307212, 0.4765251542, 0.4819892675, 0.8054964133, 0.2433303358, 0.632200993],
        [-0.1421795167, 2.863181633, -3.783569984, 0.001294010936, -0.8596511532, 0.6845755864, 1.036822209],
    ),
    3: (
        [0.4020185104, 0.2240638025, 0.4784240845, 0.4806196907, 0.8029714245, 0.2397931887, 0.6278132327],
        [13.64399212, 752.5704341, -553.5588113, 193.9132204, -104.9264221, 581.0069821, 825.0471491],
    ),
}
RECORDED_DICNET_16 = [
    0.4291730034, 0.213375819, 0.47823501, 0.3974725556, 0.2506560872, 0.4653959521, 0.8515472346,
]  # fmt: skip
RECORDED_HOURGLASS = [
    56.04162528, 862.3359184, -884.5924783, -1511.407236, 776.5602974, -478.2307173, 1230.665848,
]  # fmt: skip
RECORDED_LOGITS = [-0.17584664379690898, -0.224976003037327]
RECORDED_DESCRIPTOR = [
    0.1148594291, 0.5164233714, -0.3363181721, 0.3448437778, 0.2487250618, 0.4829506937, 0.2571285287,
]  # fmt: skip
RECORDED_CLASSES = [
    -0.006850823936, 0.5325865429, -0.6800651336, -0.6137450651, 0.0564511354, -0.8931698523, -0.1450485485,
]  # fmt: skip


def with_tensors_of(network, shapes):
    """The network in float64 with formula weights, given to it under their published names."""
    state = face_state(shapes)
    network = network.double().eval()
    if hasattr(network, "mean"):  # the buffer was rounded to float32
        network.mean.copy_(torch.tensor(FACE_MEAN, dtype=torch.float64).view(1, 3, 1, 1))
    convert = getattr(network, "convert_state_dict", dict)
    network.load_state_dict(convert(state))
    return network


@pytest.mark.parametrize(
    ("block", "shapes", "count", "tensors"),
    [
        ({"type": "DICNet"}, dicnet(), 21_803_849, 296),
        ({"type": "StackedHourglass"}, stacked_hourglass(), 12_952_848, 1_308),
        ({"type": "LightCNN9"}, lightcnn9(), 25_803_653, 22),
        ({"type": "LightCNN9", "num_classes": 0}, None, 5_480_864, 20),
        ({"type": "DICDiscriminator"}, discriminator(), 5_485_921, 22),
    ],
    ids=["dicnet", "hourglass", "lightcnn9", "lightcnn9_descriptor", "discriminator"],
)
def test_parameter_count(block, shapes, count, tensors):
    with torch.device("meta"):
        network = build(ARCH_REGISTRY, block, "network_g")
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert len(network.state_dict()) == tensors
    if shapes is not None:
        assert len(face_state(dict.fromkeys(shapes, (1,)))) == tensors


def test_hourglass_inside_dicnet():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DICNet().aligner.parameters()) == 11_999_172


@torch.inference_mode()
def test_dicnet_equals_the_published_module():
    network = with_tensors_of(DICNet(), dicnet())
    outputs = network(formula_images(1, 3, 8, 8))
    assert outputs["steps"].shape == (4, 1, 3, 64, 64)
    assert outputs["heatmaps"].shape == (4, 1, 68, 16, 16)
    assert torch.equal(outputs["restored"], outputs["steps"][-1])
    for step, (image, heatmaps) in RECORDED_DICNET.items():
        assert probe(outputs["steps"][step]) == pytest.approx(image, rel=1e-8)
        assert probe(outputs["heatmaps"][step]) == pytest.approx(heatmaps, rel=1e-8)
    single = network.float()(formula_images(1, 3, 8, 8).float())["restored"]
    torch.testing.assert_close(single.double(), outputs["restored"], rtol=0, atol=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_dicnet_at_its_published_size():
    restored = with_tensors_of(DICNet(), dicnet())(formula_images(1, 3, 16, 16))["restored"]
    assert restored.shape == (1, 3, 128, 128)
    assert probe(restored) == pytest.approx(RECORDED_DICNET_16, rel=1e-8)


@torch.inference_mode()
def test_hourglass_equals_the_published_module():
    outputs = with_tensors_of(StackedHourglass(), stacked_hourglass())(formula_images(1, 3, 64, 64))
    assert outputs["stacks"].shape == (4, 1, 68, 16, 16)
    assert torch.equal(outputs["heatmaps"], outputs["stacks"][-1])
    assert probe(outputs["heatmaps"]) == pytest.approx(RECORDED_HOURGLASS, rel=1e-8)


@torch.inference_mode()
def test_discriminator_equals_the_published_module():
    logits = with_tensors_of(DICDiscriminator(), discriminator())(formula_images(2, 3, 128, 128))
    assert logits.shape == (2, 1)
    assert logits.flatten().tolist() == pytest.approx(RECORDED_LOGITS, rel=1e-8)


@torch.inference_mode()
def test_lightcnn9_equals_the_published_module():
    network = with_tensors_of(LightCNN9(), lightcnn9())
    faces = formula_images(2, 1, 128, 128)
    assert probe(network.descriptor(faces)) == pytest.approx(RECORDED_DESCRIPTOR, rel=1e-8)
    assert probe(network(faces)) == pytest.approx(RECORDED_CLASSES, rel=1e-8)


def test_loads_published_files(tmp_path):
    state = {f"module.{name}": torch.zeros(shape) for name, shape in stacked_hourglass(1, 5).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "hourglass.pth")
    network = StackedHourglass(num_points=5, num_stack=1)
    left = load_weights(network, tmp_path / "hourglass.pth", strict=False)
    assert all(name.endswith("num_batches_tracked") for name in left)
    assert not any(parameter.any() for parameter in network.parameters())
    classes = {name: torch.zeros(shape) for name, shape in lightcnn9(7).items()}
    torch.save({"state_dict": classes}, tmp_path / "lightcnn.pth")
    network = LightCNN9(num_classes=0)
    assert load_weights(network, tmp_path / "lightcnn.pth") == []
    assert not network.fc1.filter.weight.any()


SMALL = {
    "points": "helen29", "num_feat": 8, "num_steps": 2, "num_groups": 2, "num_fusion_blocks": 1,
    "num_hourglass_feat": 8,
}  # fmt: skip


def small(**changes):
    return DICNet(**{**SMALL, **changes})


def test_random_heatmaps_start_small():
    torch.manual_seed(0)
    with torch.no_grad():
        heatmaps = DICNet("helen29", num_feat=8, num_groups=1, projection=2, num_fusion_blocks=1)(
            torch.rand(1, 3, 16, 16)
        )["heatmaps"]
    assert heatmaps.abs().max() < 10


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = small(num_steps=3)
    outputs = network(torch.rand(2, 3, 8, 8))
    assert outputs["heatmaps"].shape == (3, 2, 29, 16, 16)
    (outputs["steps"].square().mean() + outputs["heatmaps"].square().mean()).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("projection", [2, 4, 8])
def test_projections_of_another_factor(projection):
    outputs = small(projection=projection)(torch.rand(1, 3, 8, 8))
    assert outputs["restored"].shape == (1, 3, 64, 64)
    with pytest.raises(OptionError, match=r"DICNet\.projection: expected one of 2, 4, 8, got 3"):
        small(projection=3)


def test_starts_from_an_hourglass_trained_before(tmp_path):
    trained = DICNet(**SMALL, hourglass_weights=None)
    published = {}
    for name, value in trained.aligner.state_dict().items():
        name = name.replace("stem.", "pre_conv_block.").replace("hourglass.", "hg.").replace("body.", "conv_block.")
        name = name.replace("project.0.", "skip_layer.").replace("centre.", "res_center.")
        for number, renamed in (("0", "0"), ("1.conv_block.0", "1"), ("2", "3")):
            name = name.replace(f"predict.{renamed}.", f"hg_conv_out.{number}.")
        for level in range(4):
            for way, renamed in enumerate(("across", "down", "up"), start=1):
                name = name.replace(f"levels.{level}.{renamed}.", f"res{4 - level}_{way}.")
        published[name] = value
    torch.save({"state_dict": published}, tmp_path / "FB_HG.pth")
    torch.save({"params": trained.state_dict()}, tmp_path / "dicnet.pth")
    for file in ("FB_HG.pth", "dicnet.pth"):
        network = DICNet(**SMALL, hourglass_weights=tmp_path / file)
        for name, value in trained.aligner.state_dict().items():
            assert torch.equal(network.aligner.state_dict()[name], value)


def test_detached_attention_keeps_images_from_training_the_hourglass():
    for detach in (False, True):
        network = small(detach_attention=detach)
        network(torch.rand(1, 3, 8, 8))["restored"].sum().backward()
        reached = any(parameter.grad is not None for parameter in network.aligner.parameters())
        assert reached is not detach


def test_merged_heatmaps():
    heatmaps = torch.tensor([[[[0.5, 0.25]], [[0.01, 0.0]], [[-1.0, 2.0]]]])
    merged = merge_heatmaps(heatmaps, [[0, 1], [2]])
    torch.testing.assert_close(merged, torch.tensor([[[[1.2, 0.5]], [[-0.5, 1.0]]]]))


def test_inputs_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"multiples of 8, got 12x16"):
        small()(torch.rand(1, 3, 12, 16))
    with pytest.raises(ShapeError, match=r"multiples of 64"):
        StackedHourglass(5, 1, 8)(torch.rand(1, 3, 96, 96))
    with pytest.raises(ShapeError, match=r"\(B, 1, 128, 128\)"):
        LightCNN9(num_classes=0)(torch.rand(1, 3, 128, 128))
    with pytest.raises(OptionError, match="did you mean 'helen29'"):
        DICNet(points="helen-29")
