"""Option files written for other projects' models."""

from __future__ import annotations

import copy

import pytest
from test_reader import RAW

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.reader import validate_options

GAN = {
    "network_d": {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 8, "input_size": 128},
    "train": {"optim_d": {"type": "Adam"}, "gan_opt": {"type": "GANLoss", "gan_type": "vanilla"}, "net_d_iters": 2},
}


def options_of(model, **blocks):
    raw = copy.deepcopy(RAW) | {"model_type": model}
    for name, block in blocks.items():
        raw[name] = {**raw.get(name, {}), **block} if name in ("train", "val") else block
    return validate_options(raw)


@pytest.mark.parametrize("model", ["SRModel", "SwinIRModel", "SRModelWithObjectives"])
def test_plain_models_of_basicsr(model):
    options = options_of(model)
    assert options["model_type"] == "D2SMModel"
    assert options["notes"] == [f"model_type {model}: run as D2SMModel, which does the same."]
    assert options_of("D2SMModel")["notes"] == []


def test_a_gan_of_basicsr():
    options = options_of("SRGANModel", **GAN)
    assert options["model_type"] == "GANModel" and options["train"]["net_d_iters"] == 2
    with pytest.raises(OptionError, match=r"train\.optim_d: this block is missing"):
        options_of("SRGANModel", network_d=GAN["network_d"], train={"gan_opt": GAN["train"]["gan_opt"]})


@pytest.mark.parametrize(
    ("model", "train", "clip"),
    [
        ("ImageCleanModel", {}, None),
        ("ImageCleanModel", {"use_grad_clip": True, "mixing_augs": {"mixup": False, "mixup_beta": 1.2}}, 0.01),
        ("ImageRestorationModel", {}, 0.01),
        ("ImageRestorationModel", {"use_grad_clip": False, "mixup": False}, None),
        ("ImageRestorationModel", {"grad_clip": 0.5}, 0.5),
    ],
)
def test_models_of_restormer_and_nafnet_clip_as_there(model, train, clip):
    options = options_of(model, train=train, val={"rgb2bgr": True, "use_image": False, "window_size": 8})
    assert options["train"]["grad_clip"] == clip
    assert options["notes"][0].startswith(f"model_type {model}: run as D2SMModel, which does the same")
    assert ("with train.grad_clip 0.01 as there" in options["notes"][0]) is (clip == 0.01)
    assert "without effect: val.use_image, val.rgb2bgr, val.window_size" in options["notes"][0]


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        (
            "ImageCleanModel",
            {"mixing_augs": {"mixup": True}},
            r"train\.mixing_augs\.mixup: ImageCleanModel mixes",
        ),
        ("ImageRestorationModel", {"mixup": True}, r"train\.mixup: ImageRestorationModel mixes pairs of images"),
        ("ImageCleanModel", {"grad_accum": 4}, r"train\.grad_accum: unknown key"),
        ("SRModel", {"use_grad_clip": True}, r"train\.use_grad_clip: unknown key; did you mean 'grad_clip'"),
        ("RealESRNetModel", {}, r"model_type: RealESRNetModel is not made for this pipeline"),
        ("NoSuchModel", {}, r"model_type: no model is registered as 'NoSuchModel'"),
    ],
)
def test_what_none_of_ours_does_is_refused(model, train, message):
    with pytest.raises(OptionError, match=message):
        options_of(model, train=train)
