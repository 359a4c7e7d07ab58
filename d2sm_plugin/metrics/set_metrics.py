"""Metrics of a whole set of images: classes, where metrics of single images are functions."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor


class SetMetric(Protocol):
    """A metric of a set, as a class in the registry of metrics.

    It is built once with the arguments of its block in ``val.metrics``. For each validation set :meth:`reset` comes
    first, then :meth:`update` for each image of this process, then :meth:`compute` on every process.

    It says which values are better as :func:`d2sm_plugin.metrics.better.better_of` asks.

    Attributes:
        compares: True when it takes the clear image too.
    """

    compares: bool

    def reset(self) -> None:
        """Forget all images."""

    def update(self, key: str, image: Tensor, clear: Tensor | None) -> None:
        """Take an image (1, 3, H, W), RGB of 8 bits as floats in [0, 1], and the clear one."""

    def compute(self) -> float:
        """Value for all images of all processes."""


def is_of_set(target: object) -> bool:
    """Tell whether something registered as a metric judges sets: classes do, functions judge images."""
    return inspect.isclass(target)


def as_tensor(image: Any) -> Tensor:
    """Return an image (H, W, 3) uint8 as (1, 3, H, W), floats in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255)


def of_all_processes(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of every process, in the order of keys, so that the result is the same for any sharing."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shares: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, entries)
        entries = {key: value for share in shares for key, value in share.items()}
    return dict(sorted(entries.items()))
