"""Order of draws: which sample of which training set, as a pure function of the seed and the number of the draw."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from d2sm_plugin.errors import OptionError

_MOST_DRAWS = 50_000_000  # of an epoch


class DrawOrder:
    """The order of an endless stream of draws from one training set or several, epoch by epoch.

    Without ratios an epoch holds every sample of every set once, or ``enlarge_ratio`` times, in random order. With
    ratios it is as long, and the sets share it by them: each set takes its place in an endless stream of its own, in
    which every sample comes once before any comes again.

    Args:
        lengths: samples of each set.
        seed: of the order.
        enlarge_ratios: passes over each set that count for the length of an epoch (BasicSR's
            ``dataset_enlarge_ratio``); None for 1.
        ratios: shares of the sets in what is drawn, relative to each other; None for their sizes.
        names: of the sets, for messages.

    Attributes:
        epoch_length: draws of an epoch.

    Raises:
        OptionError: when a set is empty, or its share of an epoch is less than one sample.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        seed: int,
        enlarge_ratios: Sequence[int] | None = None,
        ratios: Sequence[float] | None = None,
        names: Sequence[str] = ("datasets.train",),
    ) -> None:
        for name, length in zip(names, lengths, strict=True):
            if length < 1:
                raise OptionError(f"{name}: the dataset is empty")
        self.lengths, self.seed, self.ratios = list(lengths), seed, ratios
        counts = [length * times for length, times in zip(lengths, enlarge_ratios or [1] * len(lengths), strict=True)]
        self.epoch_length = sum(counts)
        if self.epoch_length > _MOST_DRAWS:
            raise OptionError(
                f"{names[0]}.dataset_enlarge_ratio: an epoch would have {self.epoch_length:,} samples, whose order is "
                f"kept in memory; at most {_MOST_DRAWS:,}"
            )
        self.counts = counts if ratios is None else _shares(self.epoch_length, ratios)
        for name, count in zip(names, self.counts, strict=True):
            if count < 1:
                raise OptionError(
                    f"{name}.ratio: of {self.epoch_length} draws of an epoch it would get none; give a larger share"
                )
        self._slots = [0, *accumulate(self.counts)]
        self._starts = [0, *accumulate(self.lengths)]
        self._epoch = -1
        self._passes: dict[tuple[int, int], list[int]] = {}

    def sample(self, position: int) -> int:
        """Return the index of a draw's sample in the concatenation of the sets.

        Args:
            position: number of the draw, from 0.
        """
        epoch, offset = divmod(position, self.epoch_length)
        if epoch != self._epoch:
            self._permutation = _permutation(self.epoch_length, self.seed * 1_000_003 + epoch)
            self._epoch, self._passes = epoch, {}
        slot = self._permutation[offset]
        part = bisect_right(self._slots, slot) - 1
        drawn = slot - self._slots[part]
        if self.ratios is None:
            return self._starts[part] + drawn % self.lengths[part]
        turn, place = divmod(epoch * self.counts[part] + drawn, self.lengths[part])
        return self._starts[part] + self._pass(part, turn)[place]

    def _pass(self, part: int, turn: int) -> list[int]:
        """Return the order of a set's samples in one pass over it."""
        if (part, turn) not in self._passes:
            word = np.random.SeedSequence((self.seed, part, turn)).generate_state(1)[0]
            self._passes[part, turn] = _permutation(self.lengths[part], int(word))
        return self._passes[part, turn]


def _permutation(length: int, seed: int) -> list[int]:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()


def _shares(total: int, ratios: Sequence[float]) -> list[int]:
    """Divide a number of draws by ratios; what is left over goes to those who lost most by rounding."""
    exact = [total * ratio / sum(ratios) for ratio in ratios]
    shares = [int(share) for share in exact]
    by_loss = sorted(range(len(ratios)), key=lambda part: shares[part] - exact[part])
    for part in by_loss[: total - sum(shares)]:
        shares[part] += 1
    return shares
