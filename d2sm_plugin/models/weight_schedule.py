"""Schedules of the weight of an objective while a network is trained."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import OptionError

_EXAMPLE = "for example [[0, 0], [1000, 1]]: from nothing to the whole weight within 1000 steps"


class WeightSchedule:
    """A factor on an objective's weight: straight lines between points, constant before the first and after the last.

    Args:
        points: pairs ``[step, factor]``, steps (counted from 1) rising, factors at least 0.
        where: key of the option file, for messages.

    Raises:
        OptionError: for anything else.
    """

    def __init__(self, points: Any, where: str) -> None:
        if not isinstance(points, list | tuple) or not points:
            raise OptionError(f"{where}: expected pairs [step, factor], got {points!r}; {_EXAMPLE}")
        for point in points:
            if not isinstance(point, list | tuple) or len(point) != 2 or not all(map(_is_amount, point)):
                raise OptionError(
                    f"{where}: expected a pair [step, factor] of numbers from 0, got {point!r}; {_EXAMPLE}"
                )
        self.steps = [float(step) for step, _ in points]
        self.factors = [float(factor) for _, factor in points]
        if any(left >= right for left, right in pairwise(self.steps)):
            raise OptionError(f"{where}: steps must rise from pair to pair, got {[step for step, _ in points]}")
        if not any(self.factors):
            raise OptionError(f"{where}: every factor is 0; leave the objective out instead (set it to ~)")

    def at(self, step: int) -> float:
        """Return the factor at a step of the training."""
        after = bisect_right(self.steps, step)
        if after == 0:
            return self.factors[0]
        if after == len(self.steps):
            return self.factors[-1]
        share = (step - self.steps[after - 1]) / (self.steps[after] - self.steps[after - 1])
        return (1 - share) * self.factors[after - 1] + share * self.factors[after]

    def at_all(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors at many steps."""
        return np.interp(steps, self.steps, self.factors)


def _is_amount(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < float("inf")
