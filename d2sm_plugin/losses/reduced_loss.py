"""Any objective at a coarser scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.registry import LOSS_REGISTRY, build, register


@register(LOSS_REGISTRY)
class ReducedLoss(nn.Module):
    """An objective on an output that is smaller than its target, as multi-scale networks such as GFN are trained.

    Args:
        criterion: option block of the objective, for example ``{"type": "MSELoss"}``, or the module itself.
        loss_weight: factor on its value.

    Raises:
        OptionError: when the block cannot be built.
    """

    takes = ("restored", "gt")

    def __init__(self, criterion: nn.Module | Mapping[str, Any], loss_weight: float = 1.0) -> None:
        super().__init__()
        where = "ReducedLoss.criterion"
        self.criterion: nn.Module = (
            build(LOSS_REGISTRY, criterion, where) if isinstance(criterion, Mapping) else criterion
        )
        self.loss_weight = loss_weight

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return ``loss_weight`` times the objective on the target, averaged over areas to the output's size.

        Args:
            output: images (B, C, h, w).
            target: images (B, C, H, W) with H >= h and W >= w.

        Raises:
            ShapeError: when they differ in batch or channels, or the output is the larger one.
        """
        size = output.shape[-2], output.shape[-1]
        if output.shape[:2] != target.shape[:2] or any(a > b for a, b in zip(size, target.shape[-2:], strict=True)):
            raise ShapeError(
                f"ReducedLoss: expected an output no larger than the target, of its batch and channels; got "
                f"{tuple(output.shape)} for {tuple(target.shape)}"
            )
        return self.loss_weight * self.criterion(output, F.adaptive_avg_pool2d(target, size))
