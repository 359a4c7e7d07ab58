"""Small sound material for every tool: pictures, labels, LMDBs, weights, option files, faces."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.archs.stacked_hourglass_arch import StackedHourglass
from d2sm_plugin.data.prepare import prepare_data

NETWORK = {"num_feat": 4, "num_layers": 3}
HOURGLASS = {"num_stack": 1, "num_feat": 8, "num_points": 5}
NETWORK_ARGUMENTS = ["--network-args", *(f"{name}={value}" for name, value in NETWORK.items())]
CLASSES = ("road", "sky", "tree", "car", "person")


def make_material(root: Path) -> Path:
    """Fill a folder with what the tools read; names in it are those that :mod:`bad_inputs` uses."""
    rng = np.random.default_rng(0)
    for number in range(3):
        image = np.repeat(np.repeat(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), 8, 0), 8, 1)
        label = np.repeat(np.repeat(rng.integers(0, 5, (6, 6), dtype=np.uint8), 8, 0), 8, 1)
        face = np.pad(image, ((0, 16), (0, 16), (0, 0)), mode="edge")
        for folder, pixels in (("images", image), ("labels", label), ("faces", face)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"p{number}.png")
    for name in ("images", "labels"):
        prepare_data.main(["folder", "--src", str(root / name), "--out", str(root), "--workers", "1"])
    torch.manual_seed(0)
    torch.save({"params": FFDNet(**NETWORK).state_dict()}, root / "net.pth")
    torch.save({"params": StackedHourglass(**HOURGLASS).state_dict()}, root / "hourglass.pth")
    _write_options(root)
    columns = ",".join(f"{axis}{number}" for number in range(5) for axis in "xy")
    points = "15,15,35,15,25,22,17,30,33,30"
    (root / "points.csv").write_text(
        f"image,{columns}\n" + "".join(f"p{number},{points}\n" for number in range(3)), encoding="utf-8"
    )
    (root / "classes.yml").write_text(yaml.safe_dump({"classes": list(CLASSES)}), encoding="utf-8")
    return root


def train_options() -> dict:
    """Options of a run of two steps."""
    return {
        "name": "tiny",
        "num_gpu": 0,
        "manual_seed": 1,
        "datasets": {
            "train": {
                "type": "NoisyImageDataset",
                "dataroot_gt": "images",
                "gt_size": 32,
                "sigma": 25,
                "batch_size_per_gpu": 3,
                "num_worker_per_gpu": 0,
            },
            "val": {"name": "v", "type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25},
        },
        "network_g": {"type": "FFDNet", **NETWORK},
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
        "val": {"save_img": False, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
        "logger": {"use_tb_logger": False, "print_freq": 1, "save_checkpoint_freq": 2},
    }


def test_options() -> dict:
    """Options of a test on the three pictures."""
    options = train_options()
    return {
        "name": "tiny_test",
        "num_gpu": 0,
        "datasets": {"test": options["datasets"]["val"]},
        "network_g": options["network_g"],
        "path": {"pretrain_network_g": "net.pth"},
        "val": options["val"],
    }


test_options.__test__ = False  # not a test case, whatever its name says


def copy_material(source: Path, target: Path) -> Path:
    """Copy the material, to be spoilt."""
    shutil.copytree(source, target, symlinks=True)
    return target


def _write_options(root: Path) -> None:
    for name, options in (("train.yml", train_options()), ("test.yml", test_options())):
        (root / name).write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
