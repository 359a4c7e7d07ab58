"""The weight of an objective in a training: a schedule, rests, a multiple of the pixel objective's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import nn

from d2sm_plugin.blocks import Block
from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses.relative_weight import RelativeWeight
from d2sm_plugin.models.weight_schedule import WeightSchedule

#: The objective that relative weights refer to.
REFERENCE = "pixel"
_MOST_STEPS = 1 << 22  # that are looked through; what comes later is found out in the training
_RESTS = 1000  # steps, of which one is empty where every objective rests at times


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


def check_steps(blocks: Mapping[str, Mapping[str, Any]], total_iter: int, may_rest: bool = False) -> list[str]:
    """Refuse a training in a step of which no objective counts.

    A relative weight is measured in a step in which the pixel objective counts too, and counts from the next one on.

    Args:
        blocks: of the option file, by key; without ``pixel_opt`` there is one elsewhere that counts in every step.
        total_iter: steps of the training.
        may_rest: a step without objectives is no error.

    Returns:
        A line for the log about each objective that never counts, as in a trial of a few steps.

    Raises:
        OptionError: naming the key; also for rests that are too long for the training.
    """
    weights = {key: ObjectiveWeight(block, f"train.{key}") for key, block in blocks.items()}
    for key, weight in weights.items():
        _check_rests(weight, f"train.{key}.every", total_iter)
    whole = _until_it_repeats(weights, total_iter)
    steps = np.arange(1, min(whole, _MOST_STEPS) + 1)
    counts = {key: weight.counts(steps) for key, weight in weights.items()}
    reference = counts.get(f"{REFERENCE}_opt", np.ones(len(steps), dtype=bool))
    for key in (key for key, weight in weights.items() if weight.relative is not None):
        measured = np.flatnonzero(counts[key] & reference)[:1]
        counts[key][: measured[0] + 1 if len(measured) else None] = False
    counted = [of_steps & (blocks[key].get("loss_weight") != 0) for key, of_steps in counts.items()]
    empty = steps[~np.any(counted, axis=0)] if not may_rest else []
    if len(empty):
        key, weight = next(iter(weights.items()))
        raise OptionError(
            f"train.{key}.{weight.idle_by(int(empty[0]))}: in step {empty[0]} no objective counts, as each rests, has "
            f"the weight 0, or has a relative weight that no step has measured yet; leave one that always counts"
        )
    idle = [key for key, of_steps in counts.items() if whole <= _MOST_STEPS and not of_steps.any()]
    return [
        f"train.{key}: in none of the {total_iter:,} steps does it count, as its schedule gives 0 or its relative "
        f"weight is measured too late."
        for key in idle
    ]


def _check_rests(weight: ObjectiveWeight, where: str, total_iter: int) -> None:
    if weight.every > total_iter:
        raise OptionError(f"{where}: {weight.every} exceeds total_iter; it would never be computed")
    if weight.every > 1 and 2 * weight.every > total_iter and weight.relative is not None:
        raise OptionError(
            f"{where}: {weight.every} is more than half of total_iter; its relative weight would be measured, never "
            f"used"
        )


def _until_it_repeats(weights: Mapping[str, ObjectiveWeight], total_iter: int) -> int:
    """Return the number of steps that hold everything that happens: schedules end, rests then repeat."""
    ends = [weight.schedule.steps[-1] for weight in weights.values() if weight.schedule is not None]
    reference = weights[f"{REFERENCE}_opt"].every if f"{REFERENCE}_opt" in weights else 1
    period = max((lcm(weight.every, reference) for weight in weights.values()), default=1)
    # Twice, as relative weights are measured and then used. Rests alone soon leave a step that is empty.
    return int(min(total_iter, max([0, *ends]) + 2 * period + _RESTS))


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

    def counts(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each of some steps whether schedule and rests leave a factor above 0."""
        counted = steps % self.every == 0
        return counted if self.schedule is None else counted & (self.schedule.at_all(steps) > 0)

    def idle_by(self, step: int) -> str:
        """Return the key of the block by which the objective does not count at a step."""
        if step % self.every:
            return "every"
        return "loss_weight" if self.scheduled(step) else "schedule"
