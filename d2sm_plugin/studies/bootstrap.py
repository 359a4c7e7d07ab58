"""Two-way bootstrap of paired differences: over seeds, and over blocks of neighbouring frames.

Frames of one drive resemble their neighbours, so blocks of them are drawn, not frames. Of n seeds or blocks n - 1 are
drawn with replacement, which makes the variance of a mean that of n independent ones (Rao and Wu 1988, "Resampling
inference with complex survey data"). Seeds and blocks are drawn independently of each other (Owen 2007, "The
pigeonhole bootstrap"); what a seed does to a block beyond the effects of both counts three times, so intervals are
rather too wide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import ShapeError

Array = NDArray[np.float64]
#: Totals (..., K) of a set of frames -> value of the set (...).
Metric = Callable[[Array], Array]

LEVEL = 0.95
#: Probability with which a difference of the size that :meth:`Variances.detectable` returns has an interval without 0.
POWER = 0.8


def mean_value(totals: Array) -> Array:
    """Return the mean over frames; totals (..., 2) are the sum of the values and the number of frames."""
    return totals[..., 0] / totals[..., 1]


def miou_value(totals: Array) -> Array:
    """Return the MIoU in percent; totals (..., 2 C) are pixels of intersection, then of union, of every class.

    Classes that are neither labelled nor predicted do not count.
    """
    intersection, union = np.split(totals, 2, axis=-1)
    there = union > 0
    with np.errstate(invalid="ignore"):
        return 100 * np.where(there, intersection / np.where(there, union, 1), 0).sum(-1) / there.sum(-1)


def blocks_of(keys: Sequence[str], length: int) -> list[list[int]]:
    """Return the places of the keys in blocks of neighbouring frames, which never span two sequences.

    A sequence is what keys have in common before their last number of three digits and more, by which its frames are
    ordered. Its blocks are as equal as can be, and as many as come nearest to ``length`` frames each.

    >>> blocks_of(["a_f00030", "a_f00000", "b_f00000", "a_f00060"], 2)
    [[1, 0], [3], [2]]
    """
    sequences: dict[str, list[tuple[int, int]]] = {}
    for place, key in enumerate(keys):
        numbers = list(re.finditer(r"\d{3,}", key))
        name, number = (key[: numbers[-1].start()], int(numbers[-1].group())) if numbers else (key, 0)
        sequences.setdefault(name, []).append((number, place))
    blocks = []
    for _, frames in sorted(sequences.items()):
        places = [place for _, place in sorted(frames)]
        parts = max(1, round(len(places) / length))
        blocks += [part.tolist() for part in np.array_split(places, parts)]
    return blocks


class Difference(NamedTuple):
    """Difference of a variant from the baseline, variant less baseline.

    Attributes:
        value: of all seeds and frames.
        low, high: ends of the 95 % interval; None where there is one seed and one block.
        seeds, frames, blocks: numbers of them.
        above: number of blocks in which the difference, averaged over seeds, is above 0.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    frames: int
    blocks: int
    above: int


@dataclass(frozen=True)
class Variances:
    """Variances of one paired difference, from which that of other numbers of seeds and blocks follows.

    Attributes:
        seed: between seeds; None from one seed, which tells nothing of it.
        block: between blocks; None from one block.
        interaction: of what a seed does to a block beyond both effects; None from one seed or one block.
    """

    seed: float | None
    block: float | None
    interaction: float | None

    def deviation(self, seeds: int, blocks: float) -> float | None:
        """Return the standard deviation of the difference over so many seeds and blocks; None where it is unknown."""
        if self.seed is None or self.block is None or self.interaction is None:
            return None
        return float(np.sqrt(self.seed / seeds + self.block / blocks + self.interaction / (seeds * blocks)))

    def detectable(self, seeds: int, blocks: float) -> float | None:
        """Return the smallest difference that so many seeds and blocks tell from 0; None where it is unknown.

        Its 95 % interval lies on one side of 0 with a probability of 80 %.
        """
        deviation = self.deviation(seeds, blocks)
        normal = NormalDist()
        return None if deviation is None else (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * deviation


class PairedTotals:
    """Totals of a variant and of the baseline on equal seeds and equal frames.

    Args:
        variant: (S, F, K), of each seed and frame.
        baseline: likewise.
        blocks: places of the frames of each block.
        metric: value of a set from its totals.
        resamples: number of draws.
        seed: of the draws.
        clean: totals (F, K) of the clean frames, to tell which share of the gap between them and the baseline a
            variant closes; None where that has no meaning.

    Raises:
        ShapeError: for totals of different shapes.
    """

    def __init__(
        self,
        variant: Array,
        baseline: Array,
        blocks: Sequence[Sequence[int]],
        metric: Metric,
        resamples: int = 2000,
        seed: int = 0,
        clean: Array | None = None,
    ) -> None:
        if (
            variant.ndim != 3
            or variant.shape != baseline.shape
            or (clean is not None and clean.shape != variant.shape[1:])
        ):
            raise ShapeError(f"totals of variant {variant.shape} and baseline {baseline.shape} must both be (S, F, K)")
        self.frames, self.metric, self.resamples = variant.shape[1], metric, resamples
        self.variant, self.baseline = (
            np.stack([totals[:, places].sum(1) for places in blocks], 1) for totals in (variant, baseline)
        )
        self.clean = None if clean is None else np.stack([clean[places].sum(0) for places in blocks])
        self.seeds, self.blocks = self.variant.shape[:2]
        rng = np.random.default_rng(seed)
        self._seed_draws, self._block_draws = (_draws(rng, resamples, count) for count in (self.seeds, self.blocks))

    def difference(self) -> Difference:
        """Return the difference with its interval."""
        draws = self._differences(self._seed_draws, self._block_draws)
        low, high = self._interval(draws)
        value = float(self._differences(*self._all())[0])
        return Difference(value, low, high, self.seeds, self.frames, self.blocks, int((self.by_block() > 0).sum()))

    def by_block(self) -> Array:
        """Return the difference within each block, averaged over seeds, (B,)."""
        return (self.metric(self.variant) - self.metric(self.baseline)).mean(0)

    def gap_share(self) -> tuple[float, float | None, float | None]:
        """Return the share of the gap between baseline and clean frames that is closed, and the ends of its interval.

        Raises:
            ShapeError: without totals of the clean frames.
        """
        clean = self.clean
        if clean is None:
            raise ShapeError("the share of the gap needs totals of the clean frames")

        def share(seeds: Array, blocks: Array) -> Array:
            gap = self.metric(blocks @ clean) - self._mean(self.baseline, seeds, blocks)
            return self._differences(seeds, blocks) / gap

        return (float(share(*self._all())[0]), *self._interval(share(self._seed_draws, self._block_draws)))

    def variances(self) -> Variances:
        """Return the variances between seeds, between blocks, and of both together."""
        every_seed, every_block = self._all()
        if self.seeds < 2 or self.blocks < 2:
            return Variances(None, None, None)
        of_seeds = self._differences(self._seed_draws, every_block).var()
        of_blocks = self._differences(every_seed, self._block_draws).var()
        joint = self._differences(self._seed_draws, self._block_draws).var()
        interaction = min(max(0.0, joint - of_seeds - of_blocks), of_seeds, of_blocks)
        return Variances(
            float((of_seeds - interaction) * self.seeds),
            float((of_blocks - interaction) * self.blocks),
            float(interaction * self.seeds * self.blocks),
        )

    def _all(self) -> tuple[Array, Array]:
        return np.ones((1, self.seeds)), np.ones((1, self.blocks))

    def _mean(self, totals: Array, seeds: Array, blocks: Array) -> Array:
        values = self.metric(np.einsum("rb,sbk->rsk", blocks, totals))
        return (values * seeds).sum(1) / seeds.sum(1)

    def _differences(self, seeds: Array, blocks: Array) -> Array:
        return self._mean(self.variant, seeds, blocks) - self._mean(self.baseline, seeds, blocks)

    def _interval(self, draws: Array) -> tuple[float | None, float | None]:
        if self.seeds == 1 and self.blocks == 1:
            return None, None
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def _draws(rng: np.random.Generator, resamples: int, count: int) -> Array:
    """Numbers of times that each of ``count`` things is drawn, (R, count): n - 1 draws of n, or the only one."""
    if count == 1:
        return np.ones((resamples, 1))
    return rng.multinomial(count - 1, np.full(count, 1 / count), resamples).astype(np.float64)
