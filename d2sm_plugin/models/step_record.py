"""Record of one training step: losses, gradient norms and sample names of its mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SHOWN = 8  # names of samples in a message


class StepRecord:
    """Losses, gradient norms and names of the mini-batches of a step."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.squares: dict[str, Tensor] = {}
        self.totals: list[Tensor] = []
        self.samples: list[list[str]] = []

    def add(self, losses: Mapping[str, Tensor], total: Tensor, batch: Mapping[str, Any]) -> None:
        """Take the losses of a mini-batch, each with its share in the step, and their sum, which is differentiated."""
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value.detach())
        self.totals.append(total.detach())
        self.samples.append([str(name) for name in sample_names(batch)])

    def add_norms(self, norms: Mapping[str, Tensor]) -> None:
        """Take the norm of each objective's gradient at the outputs of a mini-batch, which are part of the step's."""
        for name, norm in norms.items():
            self.squares[name] = self.squares.get(name, 0.0) + norm.square()

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of each objective's gradient at the outputs of the whole step."""
        return {name: squares.sqrt().item() for name, squares in self.squares.items()}

    def losses(self, accumulation: Callable[[str], str]) -> dict[str, Tensor]:
        """Return the value of each objective in the step.

        Args:
            accumulation: of an objective, see :mod:`d2sm_plugin.losses.accumulation`.
        """
        return {
            name: values[-1] if len(values) == 1 or accumulation(name) == "queue" else torch.stack(values).sum()
            for name, values in self.values.items()
        }

    def all_finite(self) -> Tensor:
        """Tell whether what was differentiated is finite, as a flag on the device."""
        return torch.isfinite(torch.stack(self.totals)).all()

    def nonfinite_losses(self) -> str:
        """Return the names of the losses that are not finite, and their samples, for a message."""
        names = [name for name, values in self.values.items() if not torch.stack(values).isfinite().all()]
        bad = [number for number, total in enumerate(self.totals) if not total.isfinite()]
        if not bad:
            return "(on another rank)"
        return f"{', '.join(names)} on {self.sample_list(bad)}"

    def sample_list(self, numbers: Sequence[int] | None = None) -> str:
        """Return the names of the samples in all mini-batches, or those with these numbers, for a message."""
        chosen = self.samples if numbers is None else [self.samples[number] for number in numbers]
        names = [name for batch in chosen for name in batch]
        return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def describe_batch(batch: Mapping[str, Any]) -> str:
    """Return the shape of a batch's input images and the names of its samples, for a message."""
    images = batch.get("lq")
    shape = f"images {tuple(images.shape)} of " if isinstance(images, Tensor) else ""
    return shape + ", ".join(map(str, sample_names(batch)))


def sample_names(batch: Mapping[str, Any]) -> Sequence[Any]:
    """Return what a data set calls the samples of a batch: ``key``, or else a path; ``?`` where it says nothing."""
    for entry in ("key", "gt_path", "lq_path"):
        if entry in batch:
            return batch[entry]
    return ["?"]
