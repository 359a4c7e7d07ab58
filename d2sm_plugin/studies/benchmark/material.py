"""Networks, features and images that the cases share; all made here, nothing is downloaded."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn

from d2sm_plugin.features import build_extractor
from d2sm_plugin.losses import QueueSampler
from d2sm_plugin.scenes.street_scenes import render_scene
from d2sm_plugin.studies.benchmark.measure import Settings

DIMENSION = 4096
ARRIVING = 32
#: EfficientNet-Lite0 with random weights: time does not depend on what it has learned.
EXTRACTOR = {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}


def feature_pair(count: int, settings: Settings, seed: int, dimension: int = DIMENSION) -> tuple[Tensor, Tensor]:
    """Restored features (n, D), which want a gradient, 10 % away from clear ones like those behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    clear = torch.randn(count, dimension, generator=generator).relu() + 0.01
    restored = clear + 0.06 * torch.randn(count, dimension, generator=generator)
    return restored.to(settings.device).requires_grad_(), clear.to(settings.device)


def fill_queue(queue: QueueSampler) -> None:
    """Make a queue that holds one batch a full one: time does not depend on what it holds, and filling takes long.

    The size of the queue is a multiple of that batch.
    """
    held = len(queue)
    for buffer in (queue.restored, queue.difference):
        buffer.copy_(buffer[:held].repeat(queue.size // held, 1))
    queue.sums.copy_(queue.sums[:, :1] * (queue.size / held))
    queue.filled.fill_(queue.size)


def image_pair(count: int, side: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """Restored images (n, 3, side, side), which want a gradient, and clear ones: street scenes and noise of 0.1."""
    clear = torch.stack([_scene(seed, side) for seed in range(count)])
    noise = 0.1 * torch.randn(clear.shape, generator=torch.Generator().manual_seed(0))
    return (clear + noise).to(settings.device).requires_grad_(), clear.to(settings.device)


@cache
def _scene(seed: int, side: int) -> Tensor:
    return torch.from_numpy(render_scene(seed, (side, side)).image).permute(2, 0, 1).float() / 255


def extractor(settings: Settings, **options: object) -> nn.Module:
    """A frozen EfficientNet-Lite0."""
    torch.manual_seed(0)
    return build_extractor({**EXTRACTOR, **options}, "benchmark").to(settings.device)


@cache
def scene_folder(count: int, height: int, width: int) -> Path:
    """A temporary folder with ``images`` and ``labels`` of street scenes, removed with the process."""
    holder = tempfile.TemporaryDirectory(prefix="d2sm_benchmark_")
    _HOLDERS.append(holder)
    for part in ("images", "labels"):
        (Path(holder.name) / part).mkdir()
    for seed in range(count):
        scene = render_scene(seed, (height, width))
        cv2.imwrite(f"{holder.name}/images/{seed:03d}.png", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(f"{holder.name}/labels/{seed:03d}.png", scene.label)
    return Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []
