"""Suites of tiny runs for the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from d2sm_plugin.studies.compare.runner import environment

ROOT = Path(__file__).resolve().parents[3]
PSNR = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}


def base_options(images: Path) -> dict:
    """Option file of a training that takes a second: a small FFDNet on 32x32 crops."""
    return {
        "name": "tiny",
        "num_gpu": 0,
        "datasets": {
            "train": {
                "type": "NoisyImageDataset",
                "dataroot_gt": str(images),
                "gt_size": 32,
                "sigma_range": [0, 75],
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            },
            "val": {"name": "photos", "type": "NoisyImageDataset", "dataroot_gt": str(images), "sigma": 25},
        },
        "network_g": {"type": "FFDNet", "num_feat": 8, "num_layers": 3},
        "train": {
            "total_iter": 4,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
        },
        "val": {"val_freq": 2, "metrics": PSNR, "save_img": False},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }


def suite_content(images: Path, **changes) -> dict:
    """A suite of L1, and L1 at twice the weight, with two seeds."""
    return {
        "name": "tiny",
        "base": "base.yml",
        "seeds": [0, 1],
        "baseline": "L1",
        "variants": {"L1": {}, "L1 twice": {"options": {"train": {"pixel_opt": {"loss_weight": 2.0}}}}},
        "test": {
            "datasets": {
                "test": {
                    "name": "photos",
                    "type": "NoisyImageDataset",
                    "dataroot_gt": str(images),
                    "sigma": [25, 50],
                    "num_images": 2,
                }
            },
            "val": {"metrics": PSNR},
        },
        "cost": {"steps": 3, "drop": 1, "rounds": 1},
        **changes,
    }


def write_suite(folder: Path, content: dict, base: dict, file: str = "suite.yml") -> Path:
    """Write a suite and its base option file into a folder; returns the suite's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("base.yml", base), (file, content)):
        (folder / name).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return folder / file


def start_compare(*arguments: object) -> subprocess.Popen[str]:
    """Start the tool in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "compare.py"), *map(str, arguments)],
        env=environment(0, 1) | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_compare(*arguments: object) -> tuple[int, str]:
    """Run the tool to its end; returns its status and what it printed."""
    process = start_compare(*arguments)
    printed, _ = process.communicate(timeout=600)
    return process.returncode, printed
