"""The weight of an objective in a training: a schedule, rests, a multiple of the pixel objective's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt
from torch import nn

from d2sm_plugin.blocks import Block
from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses.relative_weight import RelativeWeight
from d2sm_plugin.models.weight_schedule import WeightSchedule

#: The objective that relative weights refer to.
REFERENCE = "pixel"


class ObjectiveOptions(Block):
    """Keys of an objective's block that the model reads itself."""

    takes: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="batch entries and network outputs that its forward gets, e.g. [restored, gt]"
    )
    schedule: list[Any] | None = Field(None, description="pairs [step, factor] between which its weight changes")
    every: PositiveInt = Field(1, description="compute it in every n-th step alone, with n times its weight")


class RelativeOptions(Block):
    """``loss_weight: {relative: 0.5}``: a weight that sets itself."""

    relative: float = Field(
        gt=0, description="its gradient at the network's output is to be so many times that of the pixel objective"
    )
    steps: PositiveInt = Field(50, description="first steps that are measured; then the weight stays as it is")
    follow: bool = Field(False, description="measure every step; the weight follows the last `steps` steps, about")


def class_arguments(block: Mapping[str, Any], keys: type[ObjectiveOptions] = ObjectiveOptions) -> dict[str, Any]:
    """Return what of an objective's block its class gets, ``type`` included: a ``loss_weight`` only if it is a number.

    Args:
        block: of the option file.
        keys: those that the model reads itself.
    """
    relative = isinstance(block.get("loss_weight"), Mapping)
    return {k: v for k, v in block.items() if k not in keys.model_fields and not (relative and k == "loss_weight")}


def check_rests(block: Mapping[str, Any], where: str, total_iter: int) -> None:
    """Refuse an objective that rests in every step of the training.

    Args:
        block: of the option file.
        where: path of the block, for messages.
        total_iter: steps of the training.

    Raises:
        OptionError: for an ``every`` that is too large. A relative weight is measured in one step before it counts.
    """
    every = block.get("every", 1)
    if every > total_iter:
        raise OptionError(f"{where}.every: {every} exceeds total_iter; it would never be computed")
    if every > 1 and 2 * every > total_iter and isinstance(block.get("loss_weight"), Mapping):
        raise OptionError(
            f"{where}.every: {every} is more than half of total_iter; its relative weight would be measured, never used"
        )


def check_steps(blocks: Mapping[str, Mapping[str, Any]], total_iter: int) -> None:
    """Refuse objectives that leave a step of the training without any.

    Args:
        blocks: of the option file, by key.
        total_iter: steps of the training.

    Raises:
        OptionError: where schedules and rests of all of them meet in 0.
    """
    weights = [ObjectiveWeight(block, f"train.{key}") for key, block in blocks.items()]
    if any(weight.every == 1 and weight.schedule is None for weight in weights):
        return
    for step in range(1, total_iter + 1):
        if not any(weight.scheduled(step) for weight in weights):
            reason = "every" if all(weight.every > 1 for weight in weights) else "schedule"
            key = next(key for key, block in blocks.items() if block.get(reason) is not None)
            raise OptionError(
                f"train.{key}.{reason}: in step {step} no objective counts, as every one rests or its "
                f"schedule gives 0; leave one without these keys"
            )


class ObjectiveWeight(nn.Module):
    """Factor on an objective: of its ``schedule``, its rests, and its relative weight if ``loss_weight`` is a block.

    ``every: n`` gives it n times its weight in steps n, 2n, 3n and so on, and 0 in all others.

    Args:
        block: of the option file.
        where: path of the block, for messages.

    Attributes:
        schedule: or None.
        every: from step to step of the objective.
        relative: or None.

    Raises:
        OptionError: for values that cannot be used; BasicSR's own trainer reads option files without a check.
    """

    def __init__(self, block: Mapping[str, Any], where: str) -> None:
        super().__init__()
        points, weight = block.get("schedule"), block.get("loss_weight")
        self.schedule = WeightSchedule(points, f"{where}.schedule") if points is not None else None
        self.every = block.get("every", 1)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise OptionError(f"{where}.every: expected a whole number of steps from 1, got {self.every!r}")
        self.relative = RelativeWeight(**weight) if isinstance(weight, Mapping) else None

    def scheduled(self, step: int) -> float:
        """Return the factor of the schedule and of the rests at a step of the training."""
        if step % self.every:
            return 0.0
        return self.every * (1.0 if self.schedule is None else self.schedule.at(step))

    def at(self, step: int) -> float:
        """Return the whole factor at a step; 0 as long as a relative weight has not been measured."""
        return self.scheduled(step) * (1.0 if self.relative is None else self.relative.value)
