"""Tiny training runs for the tests: option files, subprocesses, weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from d2sm_plugin.weight_files import load_file

ROOT = Path(__file__).resolve().parents[2]


def tiny_options(images: Path, root: Path, **train) -> dict:
    """Options of a run that takes seconds: a small FFDNet on 32x32 crops."""
    return {
        "name": "tiny",
        "num_gpu": 0,
        "manual_seed": 7,
        "datasets": {
            "train": {
                "type": "NoisyImageDataset",
                "dataroot_gt": str(images),
                "gt_size": 32,
                "sigma_range": [0, 75],
                "use_hflip": True,
                "use_rot": True,
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            },
            "val": {"name": "photos", "type": "NoisyImageDataset", "dataroot_gt": str(images), "sigma": 25},
        },
        "network_g": {"type": "FFDNet", "num_feat": 8, "num_layers": 3},
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "train": {
            "total_iter": 8,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
            **train,
        },
        "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}, "save_img": False},
        "logger": {"print_freq": 2, "save_checkpoint_freq": 4, "use_tb_logger": False},
    }


def write_options(options: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return path


def start_tool(arguments: list, tool: str = "train", launcher: list | None = None, **kwargs) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
    command = [*(launcher or [sys.executable]), str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **kwargs
    )


def read_until(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended before it printed '{text}'")


def run_tool_to_end(arguments: list, **kwargs) -> tuple[int, str]:
    process = start_tool(arguments, **kwargs)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def weights(root: Path, name: str = "tiny", file: str = "net_g_latest.safetensors", key: str = "params") -> dict:
    return load_file(root / "experiments" / name / "models" / file)[key]


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
