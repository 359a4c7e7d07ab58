"""Numbers of degradations: one that is fixed, or a range from which each image draws its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from d2sm_plugin.errors import OptionError

#: A number, or [lowest, highest].
FloatRange = float | tuple[float, float]
IntRange = int | tuple[int, int]


class Range(NamedTuple):
    """Range of a uniform draw; both ends are possible. A range of one number draws nothing."""

    low: float
    high: float

    def draw(self, generator: np.random.Generator) -> float:
        """Return a number of the range."""
        return self.low if self.low == self.high else generator.uniform(self.low, self.high)

    def draw_whole(self, generator: np.random.Generator, step: int = 1) -> int:
        """Return one of the whole numbers ``low``, ``low + step``, ... up to ``high``."""
        last = int(self.high - self.low) // step
        return int(self.low) + (step * int(generator.integers(last + 1)) if last else 0)


def read_range(value: float | Sequence[float], where: str, least: float, most: float) -> Range:
    """Return a number, or [lowest, highest], as a range.

    Args:
        value: as the option file has it.
        where: class and argument, for messages.
        least: smallest number that is possible.
        most: largest number that is possible.

    Raises:
        OptionError: for anything else, a number out of bounds, or a range whose first number is the larger one.
    """
    numbers = list(value) if isinstance(value, Sequence) else [value]
    plain = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    low, high = (numbers[0], numbers[-1]) if plain and 1 <= len(numbers) <= 2 else (most, least)
    if not least <= low <= high <= most or (len(numbers) == 1 and isinstance(value, Sequence)):
        raise OptionError(
            f"{where}: expected a number from {least:g} to {most:g}, or [lowest, highest] of such, got {value!r}"
        )
    return Range(low, high)
