"""All objectives in one option file, and each of them by itself, on an LMDB with labels."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from runs import equal, tiny_options, weights, write_options
from torchvision import models

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.prepare.prepare_data import main as prepare_data
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.studies.benchmark.cases.iteration import random_vgg

TIMM = {"type": "TimmFeatures", "model": "test_efficientnet", "weights": None}
SEGMENTOR = {"config": "hrnet_tiny_street_scenes", "checkpoint": "package:hrnet_tiny_street_scenes"}
OBJECTIVES = {
    "ssim": {"type": "SSIMLoss", "loss_weight": 0.1},
    "contextual": {
        "type": "ContextualLoss", "extractor": {**TIMM, "stride": 4}, "max_positions": 40, "loss_weight": 0.01,
    },
    "lpips": {"type": "LPIPSLoss", "net": "squeeze", "loss_weight": 0.1},  # and a trunk
    "segmentation": {"type": "SegmentationLoss", **SEGMENTOR, "classes": "cityscapes", "loss_weight": 0.01},
    "feature": {"type": "FeatureLoss", "extractor": {**TIMM, "stride": 8}, "spatial": True, "loss_weight": 0.1},
    "d2sm": {
        "type": "D2SMLoss",
        "loss_weight": 0.01,
        "extractor": {**TIMM, "stride": 8},
        "patches": {"type": "SpatialSampler", "max_positions": 8},
        "queue": {"type": "QueueSampler", "size": 40},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Folder of LMDBs of generated street scenes and their labels."""
    root = tmp_path_factory.mktemp("scenes")
    prepare_data(["demo", "--out", str(root), "--num-train", "4", "--num-val", "1", "--size", "128", "192"])
    return root


@pytest.fixture(scope="module")
def trunk(tmp_path_factory) -> str:
    """Random weights of torchvision's SqueezeNet."""
    path = tmp_path_factory.mktemp("trunk") / "squeezenet1_1.pth"
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return str(path)


def options_on(scenes: Path, trunk: str, root: Path, names, **train) -> dict:
    """A tiny run on the scenes with these objectives."""
    for module, name in (("lpips", "lpips"), ("pytorch_msssim", "ssim"), ("mmseg", "segmentation")):
        if name in names and importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    blocks = {f"{name}_opt": dict(OBJECTIVES[name]) for name in names}
    if "lpips_opt" in blocks:
        blocks["lpips_opt"]["trunk"] = trunk
    options = tiny_options(scenes / "train_images.lmdb", root, total_iter=4, **blocks, **train)
    options["datasets"]["train"] |= {
        "dataroot_label": str(scenes / "train_labels.lmdb"), "gt_size": 64, "io_backend": {"type": "lmdb"},
    }  # fmt: skip
    options["datasets"]["val"] |= {"dataroot_gt": str(scenes / "val_images.lmdb"), "num_images": 1}
    options["logger"] |= {"print_freq": 1, "save_checkpoint_freq": 2}
    return options


def train(options: dict, root: Path, *arguments: str) -> str:
    path = write_options(options, root / f"{options['name']}.yml")
    assert training.main(["-opt", str(path), *arguments]) == 0
    folder = root / "experiments" / options["name"]
    assert next(csv.DictReader((folder / "metrics.csv").open()))["metric"] == "psnr"
    return "".join(file.read_text() for file in sorted(folder.glob("train_*.log")))


def test_all_objectives_in_one_run(scenes, trunk, tmp_path):
    """Every one has a finite value and a gradient; in two parts the run gives what it gives in one."""
    options = options_on(scenes, trunk, tmp_path, OBJECTIVES)
    log = train(options, tmp_path)
    assert "objectives: pixel, " + ", ".join(OBJECTIVES) in log
    for name in ("pixel", *OBJECTIVES):
        norm = float(log.split(f"Gradient of {name}: norm ")[1].split()[0])
        assert math.isfinite(norm) and norm > 0, name
        assert f"l_{name}: " in log
    assert "Step skipped" not in log
    state = torch.load(tmp_path / "experiments" / "tiny" / "training_states" / "4.state", weights_only=True)
    # Queues and generators are kept, frozen networks are not.
    assert {name.split(".")[1] for name in state["objectives"]} == {"contextual", "d2sm"}
    assert {name for name in state["objectives"] if ".contextual." in name} == {
        "terms.contextual.sampler.generator_state"
    }

    options["name"] = "parts"
    parts = tmp_path / "experiments" / "parts"
    (tmp_path / "experiments" / "tiny").rename(parts)
    whole = weights(tmp_path, "parts", "net_g_4.safetensors")
    (parts / "training_states" / "4.state").unlink()
    (parts / "models" / "net_g_4.safetensors").unlink()
    train(options, tmp_path, "--auto_resume")
    assert equal(whole, weights(tmp_path, "parts", "net_g_4.safetensors"))


def test_labels_reach_the_segmentation_objective_alone(scenes, trunk, tmp_path):
    """Without it, the labels beside the images change nothing in a run; with it, they do."""
    options = options_on(scenes, trunk, tmp_path, ())
    train(options, tmp_path)
    options["name"] = "unlabelled"
    del options["datasets"]["train"]["dataroot_label"]
    train(options, tmp_path)
    assert equal(weights(tmp_path), weights(tmp_path, "unlabelled"))
    options = {**options_on(scenes, trunk, tmp_path, ("segmentation",)), "name": "labelled"}
    train(options, tmp_path)
    assert not equal(weights(tmp_path), weights(tmp_path, "labelled"))


def test_mixed_precision_and_channels_last(scenes, trunk, tmp_path):
    options = options_on(scenes, trunk, tmp_path, OBJECTIVES, amp="bf16", channels_last=True)
    assert "Step skipped" not in train(options, tmp_path)


def test_basicsrs_perceptual_loss(scenes, trunk, tmp_path):
    block = {"type": "PerceptualLoss", "layer_weights": {"conv2_2": 1.0}, "criterion": "l1", "perceptual_weight": 0.1}
    with random_vgg():
        log = train(options_on(scenes, trunk, tmp_path, (), perceptual_opt=block), tmp_path)
    assert float(log.split("Gradient of perceptual: norm ")[1].split()[0]) > 0


@pytest.mark.parametrize(
    "discriminator",
    [
        {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},
        {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 4, "input_size": 128},
    ],
    ids=["unet", "vgg"],
)
def test_gan_beside_the_others(scenes, trunk, tmp_path, discriminator):
    options = options_on(scenes, trunk, tmp_path, ("feature", "d2sm"))
    options |= {"model_type": "GANModel", "network_d": discriminator}
    options["train"] |= {
        "optim_d": {"type": "Adam", "lr": 1e-4},
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.005},
    }
    options["datasets"]["train"]["gt_size"] = 128
    log = train(options, tmp_path)
    assert "l_gan: " in log and "l_d_real: " in log and "Step skipped" not in log
