"""Timing several variants of one piece of work in turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode


class Spent(NamedTuple):
    """Result of a step whose work other processes did: their wall time and CPU time in seconds."""

    wall: float
    cpu: float


Step = Callable[[], object]


@dataclass(frozen=True)
class Settings:
    """Device, repeats and size of a measurement.

    Attributes:
        device: ``cpu`` or ``cuda``.
        repeats: rounds; every variant runs once in each.
        small: sizes that take seconds instead of minutes.
    """

    device: torch.device
    repeats: int
    small: bool


@dataclass(frozen=True)
class Case:
    """Variants of one piece of work, built lazily so that each can be measured in a process of its own.

    Attributes:
        title: what is measured, with its sizes.
        reference: name of the variant that ratios refer to.
        variants: name -> function that prepares it and returns one step.
        rounds: at most so many rounds, for slow cases.
        in_this_process: whether the work is done in the process that prepares it, so that its memory says something.
    """

    title: str
    reference: str
    variants: dict[str, Callable[[], Step]]
    rounds: int = 1000
    in_this_process: bool = True


@dataclass
class Timing:
    """Times of one variant, a value for each round, in seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    flops: int = 0

    def spread(self) -> float:
        """Half the distance of the quartiles of the CPU time (of the wall time on a GPU), relative to the median."""
        times = sorted(self.cpu)
        if len(times) < 2:
            return 0.0
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return (high - low) / 2 / statistics.median(times)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Step, device: torch.device) -> tuple[float, float]:
    """Return the wall time and this process's CPU time of one call, in seconds, or what the call says it spent."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    spent = step()
    synchronise(device)
    if isinstance(spent, Spent):
        return spent
    return time.perf_counter() - wall, time.process_time() - cpu


def count_flops(step: Step) -> int:
    """Return the floating point operations of the products and convolutions of one call."""
    with FlopCounterMode(display=False, custom_mapping=_uncounted()) as counter:
        step()
    return counter.get_total_flops()


def _uncounted() -> dict[object, Callable[..., int]]:
    """Counters of products added in place, which PyTorch does not."""

    def added(_total: Sequence[int], left: Sequence[int], right: Sequence[int], **_options: object) -> int:
        return 2 * math.prod(left) * right[1]

    return {torch.ops.aten.addmm_: added}


def run_case(case: Case, settings: Settings) -> dict[str, Timing]:
    """Measure all variants in turns; each first runs once unmeasured, under the counter of operations."""
    steps = {name: prepare() for name, prepare in case.variants.items()}
    timings = {name: Timing() for name in steps}
    for name, step in steps.items():
        timings[name].flops = count_flops(step)
    for _ in range(min(case.rounds, settings.repeats)):
        for name, step in steps.items():
            wall, cpu = timed(step, settings.device)
            timings[name].wall.append(wall)
            timings[name].cpu.append(cpu if settings.device.type == "cpu" else wall)
    return timings


def ratios(timings: dict[str, Timing], reference: str, kind: str) -> dict[str, float]:
    """Median over the rounds of each variant's time divided by the reference's of the same round."""
    base = getattr(timings[reference], kind)
    return {
        name: statistics.median(time / of_base for time, of_base in zip(getattr(timing, kind), base, strict=True))
        for name, timing in timings.items()
    }


def arithmetic_limit(settings: Settings, size: int = 2048) -> float:
    """Return the operations per second of a large float32 matrix product on this device (best of five)."""
    left, right = (torch.rand(size, size, device=settings.device) for _ in range(2))
    times = []
    for _ in range(5):
        wall, cpu = timed(lambda: left @ right, settings.device)
        times.append(cpu if settings.device.type == "cpu" else wall)
    return 2 * size**3 / min(times)
