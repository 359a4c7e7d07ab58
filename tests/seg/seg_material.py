"""Tiny networks and pictures for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

TINY_CONFIG = """
_base_ = [
    __import__("d2sm_plugin.seg.openmmlab", fromlist=["shipped_config"]).shipped_config(
        "fcn_hr18s_4xb2-160k_cityscapes-512x1024"
    )
]
norm_cfg = dict(type="SyncBN", requires_grad=True)
stage = dict(num_modules=1, num_blocks=(1, 1), num_channels=(4, 8))
model = dict(
    pretrained=None,
    backbone=dict(
        extra=dict(
            stage1=dict(num_blocks=(1,), num_channels=(8,)),
            stage2=dict(num_modules=1, num_blocks=(1, 1), num_channels=(4, 8)),
            stage3=dict(num_modules=1, num_blocks=(1, 1, 1), num_channels=(4, 8, 16)),
            stage4=dict(num_modules=1, num_blocks=(1, 1, 1, 1), num_channels=(4, 8, 16, 32)),
        )
    ),
    decode_head=dict(in_channels=[4, 8, 16, 32], channels=16, num_classes=5, norm_cfg=norm_cfg, {head}),
    {extra}
)
test_pipeline = [dict(type="LoadImageFromFile"), {resize} dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
"""
TINY_CLASSES = ["road", "sky", "tree", "car", "person"]


def write_tiny(
    folder: Path, name: str = "tiny", extra: str = "", resize: str = "", head: str = "", layout: str = "new"
) -> tuple[str, str]:
    """Write a tiny HRNet's config and a checkpoint of seeded random weights; return both paths."""
    from d2sm_plugin.seg import build_segmentor

    config = folder / f"{name}.py"
    config.write_text(TINY_CONFIG.replace("{extra}", extra).replace("{resize}", resize).replace("{head}", head))
    network = build_segmentor(str(config), None).network
    generator = torch.Generator().manual_seed(4)
    state = {}
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(value.shape, generator=generator)
        elif value.is_floating_point():
            scale = (2.0 / max(value[0].numel(), 1)) ** 0.5 if value.ndim == 4 else 0.5
            state[key] = scale * torch.randn(value.shape, generator=generator)
        else:
            state[key] = value.clone()
    palette = [[10 * i, 20, 200 - 10 * i] for i in range(len(TINY_CLASSES))]
    meta = {"dataset_meta": {"classes": TINY_CLASSES, "palette": palette}}
    if layout == "old":
        meta = {"CLASSES": TINY_CLASSES, "PALETTE": palette, "mmseg_version": "0.5.0"}
    checkpoint = folder / f"{name}.pth"
    torch.save({"meta": meta, "state_dict": state}, checkpoint)
    return str(config), str(checkpoint)


def write_pictures(folder: Path, count: int = 3, size: tuple[int, int] = (40, 56), seed: int = 0) -> dict[str, Path]:
    """Write clean and restored pictures and labels in three folders."""
    rng = np.random.default_rng(seed)
    parts = {name: folder / name for name in ("clean", "restored", "labels")}
    for path in parts.values():
        path.mkdir(parents=True)
    for i in range(count):
        clean = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), size[::-1])
        restored = np.clip(clean + rng.normal(0, 9, clean.shape), 0, 255).astype(np.uint8)
        label = cv2.resize(rng.integers(0, 5, (5, 7), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        label[:2] = 255
        cv2.imwrite(str(parts["clean"] / f"im{i}.png"), clean)
        cv2.imwrite(str(parts["restored"] / f"im{i}.png"), restored)
        cv2.imwrite(str(parts["labels"] / f"im{i}.png"), label)
    return parts
