"""RDN, URDGN, FSRNet and PFSR against the published modules.

The recorded figures were computed once by those modules with formula weights and images, in float64. URDGN is published
in Torch7 alone; its layer table is computed here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formula_values import formula_images, probe
from PIL import Image
from published_face_shapes import face_state
from published_face_sr_shapes import (
    equalised_state,
    fsrgan_discriminator,
    fsrnet,
    fsrnet_by_the_other_port,
    pfsr,
    pfsr_discriminator,
    rdn,
    softened,
)
from published_shapes import conv

from d2sm_plugin.archs.fsrnet_arch import ARCH_REGISTRY, FSRGANDiscriminator, FSRNet, _enlarge
from d2sm_plugin.archs.pfsr_arch import PFSR, PFSRDiscriminator
from d2sm_plugin.archs.rdn_arch import RDN
from d2sm_plugin.archs.urdgn_arch import URDGN, URDGNDiscriminator
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

#: Number of shuffle stages -> output.
RECORDED_RDN = {
    2: [-0.1456086586, 1.585043321, 0.53319933, -2.011496574, 1.203792573, -1.134092836, -0.4550094285],
    3: [0.04290105636, 1.566056422, -0.3934460716, 0.794394564, -0.5351878414, -0.8103556234, 0.002645679108],
}
RECORDED_FSRNET = {
    "restored": [0.3164994482, 0.1618557759, 0.08570985905, 0.4484837307, 0.2832420313, 0.3351193642, 0.2727304614],
    "coarse": [0.5019093898, 0.2515327598, 0.6905399983, 0.9344955725, 0.3612409119, 0.8305056037, 0.380246372],
}
RECORDED_FSRNET_PRIOR = [
    5.987693932, 15.73356319, 8.931966898, 6.454132861, 5.081752261, 10.24592527, 3.170311992,
]  # fmt: skip
#: With blocks that share their weights; the last are heatmaps and parsing maps side by side.
RECORDED_FSRNET_SHARED = {
    "restored": [0.6780087681, 0.2689383347, 0.6988343309, 0.9275072109, 0.2663529255, 0.8549429525, 0.2321032597],
    "coarse": [0.5464481973, 0.2671091399, 0.2241663172, 0.4313600675, 0.6274357066, 0.3568842047, 0.5473728657],
    "heads": [-0.2782386025, 14.42675822, 19.21977322, 16.63545713, -3.457558519, 1.725755604, 3.891640377],
}
RECORDED_FSRGAN_LOGITS = [
    -0.05138028645, 0.0296693415, -0.06371685075, -0.03687291449, -0.08253110588, -0.02006579555, -0.01404253606,
]  # fmt: skip
#: Stage and fade -> restored faces, and what the discriminator says of two others.
RECORDED_PFSR = {
    (1, 1.0): (
        [0.5972297605, 0.2644005986, 0.8891414273, 0.2403973431, 0.4994441551, 0.3478808121, 0.4798526001],
        [-1.3688351493856936, -1.36459870773684],
    ),
    (2, 0.25): (
        [0.5505157969, 0.1880703721, 0.7486421258, 0.3086468885, 0.4819648297, 0.398923578, 0.4673062254],
        [-1.356995596982564, -1.353657899236617],
    ),
    (2, 1.0): (
        [0.4103739062, 0.07192649922, 0.3271442215, 0.5133955246, 0.4295268537, 0.5520518755, 0.4296671012],
        [-1.3011319001216592, -1.3013550327840266],
    ),
    (3, 0.25): (
        [0.4318125078, 0.049840232, 0.3788031729, 0.4842141882, 0.4564937195, 0.5147162684, 0.4571251167],
        [-1.3086081335150908, -1.3079799290463214],
    ),
    (3, 1.0): (
        [0.4961283127, 0.1037371031, 0.5337800272, 0.3966701791, 0.5373943168, 0.4027094471, 0.5394991633],
        [-1.2873255377957065, -1.2871280596140688],
    ),
}


def check_recorded(output, recorded):
    assert probe(output) == pytest.approx(recorded, rel=1e-8, abs=1e-10)


def with_state(network, state):
    """The network in float64, with published tensors."""
    network = network.double().eval()
    convert = getattr(network, "convert_state_dict", dict)
    network.load_state_dict(convert(state))
    return network


@pytest.mark.parametrize(
    ("block", "count"),
    [
        ({"type": "RDN"}, 22_418_819),
        ({"type": "RDN", "scale": 4}, 22_271_107),
        ({"type": "RDN", "scale": 2}, 22_123_395),
        ({"type": "URDGN"}, 1_054_243),
        ({"type": "URDGNDiscriminator"}, 6_859_425),
        ({"type": "FSRNet"}, 3_262_272),
        ({"type": "FSRGANDiscriminator"}, 4_693_697),
        ({"type": "PFSR"}, 8_969_097),
        ({"type": "PFSRDiscriminator"}, 8_065_537),
    ],
    ids=lambda value: "_".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_parameter_count(block, count):
    with torch.device("meta"):
        network = build(ARCH_REGISTRY, block, "network_g")
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_parts_of_fsrnet():
    with torch.device("meta"):
        network = FSRNet()
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children() if part}
    assert parts == {"coarse": 225_536, "encoder": 926_528, "prior": 1_738_816, "decoder": 371_392}


@torch.inference_mode()
@pytest.mark.parametrize("stages", [2, 3])
def test_rdn_equals_the_published_module(stages):
    network = with_state(RDN(scale=2**stages), face_state(rdn(stages)))
    restored = network(formula_images(1, 3, 6, 7))
    assert restored.shape == (1, 3, 6 * 2**stages, 7 * 2**stages)
    check_recorded(restored, RECORDED_RDN[stages])


def test_rdn_by_4_fills_all_but_the_third_stage_by_8(tmp_path):
    small = {"num_feat": 4, "growth": 4, "num_block": 2, "num_layer": 2}
    torch.save(RDN(scale=4, **small).state_dict(), tmp_path / "rdn_x4.pth")
    assert load_weights(RDN(**small), tmp_path / "rdn_x4.pth", strict=False) == ["upscale.4.bias", "upscale.4.weight"]


@pytest.mark.parametrize("network", [RDN(num_feat=4, growth=4, num_block=2, num_layer=2), URDGN((4, 4, 4, 4))])
def test_declared_receptive_radius(network):
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.abs_()  # nothing cancels
    images = torch.rand(1, 3, 23, 23, dtype=torch.float64, requires_grad=True)
    restored = network(images)
    seen = []
    for pixel in (88, 95):  # the first and the last that belong to small pixel 11
        (gradient,) = torch.autograd.grad(restored[0, :, pixel, pixel].sum(), images, retain_graph=True)
        seen.append((gradient[0].abs().sum(0).nonzero() - 11).abs().max().item())
    assert max(seen) == network.receptive_radius


def urdgn_by_its_table(state, images):
    """Output for images in [-1, 1]: the numbers are the places of the layers in the published sequence."""
    for place in (0, 4, 8, 12):
        images = F.interpolate(images, scale_factor=2, mode="nearest") if place else images
        kernel = state[f"{place}.weight"].shape[-1]
        images = F.conv2d(images, state[f"{place}.weight"], state[f"{place}.bias"], padding=kernel // 2)
        values = (state[f"{place + 1}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, scale, shift = (value.view(1, -1, 1, 1) for value in values)
        images = ((images - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
    return F.conv2d(images, state["15.weight"], state["15.bias"], padding=2)


@torch.inference_mode()
def test_urdgn_equals_its_layer_table():
    shapes = {}
    for place, before, after, kernel in ((0, 3, 16, 3), (4, 16, 64, 3), (8, 64, 128, 5), (12, 128, 256, 5)):
        shapes |= conv(str(place), before, after, kernel)
        shapes |= {f"{place + 1}.{kind}": (after,) for kind in ("weight", "bias", "running_mean", "running_var")}
    state = face_state(shapes | conv("15", 256, 3, 5))
    images = formula_images(1, 3, 4, 5)
    expected = urdgn_by_its_table(state, 2 * images - 1)
    torch.testing.assert_close(with_state(URDGN(), state)(images), (expected + 1) / 2)


@torch.inference_mode()
def test_urdgns_discriminator_equals_its_layer_table():
    torch.manual_seed(0)
    network = URDGNDiscriminator((2, 3, 4, 5), num_hidden=7).eval()
    faces = torch.rand(2, 3, 128, 128)
    features = 2 * faces - 1
    for layer in [layer for layer in network.features if isinstance(layer, torch.nn.Conv2d)]:
        features = F.max_pool2d(F.conv2d(features, layer.weight, layer.bias, padding=2), 2).clamp(min=0)
    hidden, last = (layer for layer in network.classifier if isinstance(layer, torch.nn.Linear))
    hidden = F.linear(features.flatten(1), hidden.weight, hidden.bias).clamp(min=0)
    torch.testing.assert_close(network(faces), F.linear(hidden, last.weight, last.bias))
    network.train()
    assert not torch.equal(network(faces), network(faces))  # dropout


@torch.inference_mode()
def test_fsrnet_equals_the_published_module():
    network = with_state(FSRNet(), softened(face_state(fsrnet())))
    outputs = network(formula_images(2, 3, 4, 6))
    assert set(outputs) == {"restored", "coarse"}
    assert outputs["restored"].shape == (2, 3, 32, 48)
    for name, recorded in RECORDED_FSRNET.items():
        check_recorded(outputs[name], recorded)
    check_recorded(network.prior(2 * outputs["coarse"] - 1), RECORDED_FSRNET_PRIOR)


@torch.inference_mode()
def test_fsrnet_equals_the_port_with_heads_and_shared_blocks(tmp_path):
    names = fsrnet_by_the_other_port(fsrnet(), 5, 3)
    shapes = {names[name]: shape for name, shape in fsrnet().items()}
    state = softened(face_state(shapes | conv("prior_conv1", 128, 5, 1) | conv("prior_conv2", 128, 3, 1)))
    for name in state:  # one block repeated: all of a part's names are one tensor, the last that was given
        part, _, rest = name.partition(".res_blocks.")
        inner = rest.partition(".")[2]
        if rest and part != "pre_net":
            last = {"csr_net": 2, "fsr_enc": 11, "fsr_dec": 2}[part]
            state[name] = state[f"{part}.res_blocks.{last}.{inner}"]
    network = with_state(FSRNet(num_heatmap=5, num_parsing=3), state)
    outputs = network(formula_images(2, 3, 4, 6))
    assert outputs["heatmaps"].shape == (2, 5, 16, 24)
    outputs["heads"] = torch.cat((outputs["heatmaps"], outputs["parsing"]), dim=1)
    for name, recorded in RECORDED_FSRNET_SHARED.items():
        check_recorded(outputs[name], recorded)
    torch.save({"epoch": 99, "state_dict": state}, tmp_path / "published.pth")
    assert load_weights(FSRNet(), tmp_path / "published.pth") == []  # heads are left out


@torch.inference_mode()
def test_fsrgans_discriminator_equals_the_published_module():
    network = with_state(FSRGANDiscriminator(), face_state(fsrgan_discriminator()))
    logits = network(formula_images(1, 3, 48, 32))
    assert logits.shape == (1, 1, 3, 2)
    check_recorded(logits, RECORDED_FSRGAN_LOGITS)


def test_fsrnet_enlarges_as_pil_does():
    small = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)  # with overshoots beyond 0 and 255
    expected = np.asarray(Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)).astype(float)
    enlarged = _enlarge(torch.from_numpy(small).permute(2, 0, 1)[None].double() / 255)
    assert np.abs(enlarged[0].permute(1, 2, 0).numpy() * 255 - expected).max() < 1.1  # PIL rounds twice


@torch.inference_mode()
def test_pfsr_equals_the_published_module_at_every_stage():
    network = with_state(PFSR(), equalised_state(pfsr()))
    critic = with_state(PFSRDiscriminator(), equalised_state(pfsr_discriminator()))
    assert (network.stage, network.fade) == (critic.stage, critic.fade) == (3, 1.0)
    small = formula_images(2, 3, 4, 5)
    for (stage, fade), (recorded, judged) in RECORDED_PFSR.items():
        network.grow(stage, fade)
        critic.grow(stage, fade)
        network.training = True  # of the network alone: normalisation stays as it is
        restored = network(small)
        network.training = False
        assert restored.shape == (2, 3, 4 << stage, 5 << stage)
        check_recorded(restored, recorded)
        whole = network(small)
        assert whole.shape == (2, 3, 32, 40)
        assert torch.equal(F.interpolate(restored, (32, 40), mode="nearest"), whole)
        faces = formula_images(2, 3, 16 << stage, 16 << stage)
        assert critic(faces).flatten().tolist() == pytest.approx(judged, rel=1e-8)


def test_pfsr_saves_its_growth_with_its_weights(tmp_path):
    network = PFSR(num_feat=16)
    network.grow(2, 0.375)
    torch.save({"params": network.state_dict()}, tmp_path / "pfsr.pth")
    again = PFSR(num_feat=16)
    assert load_weights(again, tmp_path / "pfsr.pth") == []
    assert (again.stage, again.fade) == (2, 0.375)
    small = torch.rand(2, 3, 8, 8)
    assert torch.equal(network.eval()(small), again.eval()(small))
    published = {"step": 3, "alpha": 1, "iteration": 100_000, "model_state_dict": equalised_state(pfsr())}
    torch.save(published, tmp_path / "published.ckpt")
    whole = PFSR()
    whole.grow(1, 1.0)
    assert load_weights(whole, tmp_path / "published.ckpt") == []
    assert (whole.stage, whole.fade) == (3, 1.0)


@pytest.mark.parametrize(
    ("stage", "fade", "resting"),
    [
        (1, 1.0, {"stages.1", "stages.2", "to_rgb.1", "to_rgb.2", "from_rgb.1", "from_rgb.2"}),
        (2, 0.5, {"stages.2", "to_rgb.2", "from_rgb.2"}),
        (3, 0.5, {"to_rgb.0", "from_rgb.0"}),
        (3, 1.0, {"to_rgb.0", "to_rgb.1", "from_rgb.0", "from_rgb.1"}),
    ],
)
def test_gradients_reach_what_the_stage_uses(stage, fade, resting):
    network, critic = PFSR(num_feat=16), PFSRDiscriminator(num_feat=4, num_hidden=8)
    for net in (network, critic):
        net.grow(stage, fade)
    critic(network(torch.rand(2, 3, 16, 16))).sum().backward()
    named = [*network.named_parameters(), *critic.named_parameters()]
    assert {".".join(name.split(".")[:2]) for name, parameter in named if parameter.grad is None} == resting


def test_inputs_that_do_not_fit():
    with pytest.raises(OptionError, match=r"RDN\.scale: expected one of 2, 4, 8, got 3"):
        RDN(scale=3)
    with pytest.raises(OptionError, match=r"FSRNet\.num_block: expected three numbers, as in \[3, 12, 3\], got \[3\]"):
        FSRNet(num_block=[3])
    with pytest.raises(OptionError, match=r"URDGN\.num_feat: expected the channels of four convolutions, got \[8\]"):
        URDGN([8])
    with pytest.raises(ShapeError, match=r"multiples of 2, got 5x4"):
        FSRNet(4, 4, (1, 1, 1))(torch.rand(1, 3, 5, 4))
    with pytest.raises(ShapeError, match=r"two faces at least"):
        PFSRDiscriminator(4, 8)(torch.rand(1, 3, 128, 128))
    with pytest.raises(ShapeError, match=r"\(B, 3, 128, 128\)"):
        URDGNDiscriminator((2, 2, 2, 2), 4)(torch.rand(1, 3, 64, 64))
    for network in (URDGN((2, 2, 2, 2)), PFSR(num_feat=16), FSRGANDiscriminator((2, 2))):
        with pytest.raises(ShapeError, match=r"expected images of shape \(B, 3, H, W\)"):
            network(torch.rand(2, 1, 16, 16))
