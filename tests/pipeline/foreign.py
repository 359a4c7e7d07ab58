"""Data sets, networks, objectives and metrics as users write them, which go wrong when they are told to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import get_worker_info

from d2sm_plugin.data.noisy_image_dataset import NoisyImageDataset
from d2sm_plugin.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY

#: What happens at which call: name of the part -> number of the call, from 1 -> what is done then.
plans: dict[str, dict] = {}
calls: dict[str, int] = {}


def reset() -> None:
    plans.clear()
    calls.clear()


def happen(part: str) -> None:
    calls[part] = calls.get(part, 0) + 1
    action = plans.get(part, {}).get(calls[part])
    if action is not None:
        action()


def fail() -> None:
    raise ZeroDivisionError("division\nby zero")


def send(number: signal.Signals):
    return lambda: os.kill(os.getpid(), number)


@LOSS_REGISTRY.register()
class PlannedLoss(nn.Module):
    """Mean absolute error."""

    def forward(self, restored, gt):
        happen("loss")
        return (restored - gt).abs().mean()


@ARCH_REGISTRY.register()
class PlannedNet(nn.Module):
    """One layer, with dropout and running means, so that its training has a state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, lq):
        happen("network" if torch.is_grad_enabled() else "network in validation")
        return lq + self.last(self.drop(self.norm(self.first(lq)).relu()))


@METRIC_REGISTRY.register()
def planned_metric(img, img2):
    """Mean absolute difference."""
    happen("metric")
    return float(abs(img.astype(float) - img2).mean())


@DATASET_REGISTRY.register()
class DyingDataset(NoisyImageDataset):
    """Kills the worker that reads its fifth sample, the first time that this happens."""

    def __getitem__(self, index):
        mark = Path(self.options.dataroot_gt).parent / "has_died"
        if get_worker_info() is not None and not mark.exists():
            happen("sample")
            if calls["sample"] == 5:
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@LOSS_REGISTRY.register()
class SpoiltLoss(nn.Module):
    """0, and NaN from a call on."""

    def __init__(self, from_step: int) -> None:
        super().__init__()
        self.from_step, self.calls = from_step, 0

    def forward(self, restored, gt):
        self.calls += 1
        return restored.mean() * (0.0 if self.calls < self.from_step else float("nan"))
