from __future__ import annotations

import csv

import pytest
import torch
import yaml

from d2sm_plugin.pipeline import train as training
from d2sm_plugin.weight_files import load_file

pytest.importorskip("mmseg")


def run(tmp_path, tiny, pictures, name: str, with_hook: bool):
    """Train for six steps with two validations; return the run's folder."""
    segmentation = {
        "config": tiny[0],
        "checkpoint": tiny[1],
        "labels": str(pictures["labels"]),
        "batch_size": 2,
    }
    images = str(pictures["clean"])
    options = {
        "name": name,
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                "type": "NoisyImageDataset",
                "dataroot_gt": images,
                "gt_size": 32,
                "sigma_range": [0, 75],
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            },
            "val": {"name": "streets", "type": "NoisyImageDataset", "dataroot_gt": images, "sigma": 25},
        },
        "network_g": {"type": "FFDNet", "num_feat": 8, "num_layers": 3},
        "path": {"experiments_root": str(tmp_path / "experiments")},
        "train": {"total_iter": 6, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
        "val": {
            "val_freq": 3,
            "max_pictures": 1,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}},
            **({"segmentation": segmentation, "save_best": "mIoU"} if with_hook else {}),
        },
        "logger": {"save_checkpoint_freq": 6, "use_tb_logger": False},
    }
    path = tmp_path / f"{name}.yml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    assert training.main(["-opt", str(path)]) == 0
    return tmp_path / "experiments" / name


def equal_tensors(left, right) -> bool:
    """Whether two trees of tensors and plain values are equal to the bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal_tensors(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal_tensors, left, right))
    return left == right


def test_training_is_the_same_to_the_bit_with_and_without(tmp_path, tiny, pictures):
    plain = run(tmp_path, tiny, pictures, "plain", with_hook=False)
    hooked = run(tmp_path, tiny, pictures, "hooked", with_hook=True)
    for file in ("models/net_g_6.safetensors", "training_states/6.state"):
        left, right = (load_file(root / file) for root in (plain, hooked))
        for kept in (left, right):
            kept.pop("options", None)  # which differ
        assert equal_tensors(left, right), file
    rows = list(csv.DictReader((hooked / "metrics.csv").open()))
    measured = {row["metric"] for row in rows if row["iter"] == "3"}
    assert {"psnr", "mIoU", "aAcc", "mAcc", "IoU/road", "IoU/person"} <= measured
    assert (hooked / "models/net_g_best_mIoU.safetensors").exists()
    psnr = [[row["value"] for row in csv.DictReader((root / "metrics.csv").open()) if row["metric"] == "psnr"]
            for root in (plain, hooked)]  # fmt: skip
    assert psnr[0] == psnr[1]
    assert len(list((hooked / "visualization/streets").glob("*.png"))) == 2
