"""Any objective at every step of a recurrent network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from d2sm_plugin.argument_types import BlockOf, Weight
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.losses.accumulation import accumulation_of
from d2sm_plugin.registry import LOSS_REGISTRY, build, register


@register(LOSS_REGISTRY)
class StepwiseLoss(nn.Module):
    """Sum of an objective over the steps of a network, as DICNet is trained.

    Args:
        criterion: option block of the objective, for example ``{"type": "L1Loss"}``, or the module itself.
        loss_weight: factor on the sum.

    Raises:
        OptionError: when the block cannot be built.
    """

    takes = ("steps", "gt")

    def __init__(
        self, criterion: Annotated[nn.Module | Mapping[str, Any], BlockOf(LOSS_REGISTRY)], loss_weight: Weight = 1.0
    ) -> None:
        super().__init__()
        where = "StepwiseLoss.criterion"
        self.criterion: nn.Module = (
            build(LOSS_REGISTRY, criterion, where) if isinstance(criterion, Mapping) else criterion
        )
        self.loss_weight = loss_weight

    @property
    def accumulation(self) -> str:
        """That of the criterion."""
        return accumulation_of(self.criterion)

    def forward(self, steps: Tensor, target: Tensor) -> Tensor:
        """Return ``loss_weight`` times the sum of ``criterion(steps[t], target)``.

        Args:
            steps: outputs of all steps (T, B, ...).
            target: the same for every step (B, ...).

        Raises:
            ShapeError: when the shapes do not fit.
        """
        if steps.shape[1:] != target.shape:
            raise ShapeError(
                f"StepwiseLoss: expected outputs (T, {', '.join(map(str, target.shape))}) for the target, got "
                f"{tuple(steps.shape)}"
            )
        return self.loss_weight * torch.stack([self.criterion(step, target) for step in steps]).sum()
