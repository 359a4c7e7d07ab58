"""The order of training samples and their randomness, as a pure function of the seed.

A training run reads an endless stream of draws. Draw ``p`` belongs to epoch ``p // L`` (L draws an epoch), and its
sample index, crop, flips and noise follow from ``(seed, p)`` alone. So the stream does not depend on the number of
workers, may be continued from any position, and is shared out among ranks without changing the joint mini-batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from d2sm_plugin.errors import OptionError
from d2sm_plugin.random_guard import untouched_random_state


class Draw(NamedTuple):
    """One sample to be drawn."""

    position: int
    index: int


class DrawSampler(Sampler[list[Draw]]):
    """Endless batches of draws for one rank.

    The joint batch ``b`` of all ranks starts at position ``b * batch_size * world_size``; rank r takes the r-th share.

    Args:
        length: number of samples in the dataset.
        batch_size: samples a rank takes for each batch.
        seed: of the order.
        enlarge_ratio: passes over the dataset that make one epoch (BasicSR's ``dataset_enlarge_ratio``).
        rank: of this process.
        world_size: number of processes.
        start: position of the first draw, to continue a run.

    Raises:
        OptionError: when the dataset is empty.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        enlarge_ratio: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        if length < 1:
            raise OptionError("datasets.train: the dataset is empty")
        self.length = length
        self.epoch_length = length * enlarge_ratio
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.start
        while True:
            share = first + self.rank * self.batch_size
            yield [self._draw(share + offset) for offset in range(self.batch_size)]
            first += self.batch_size * self.world_size

    def _draw(self, position: int) -> Draw:
        epoch, offset = divmod(position, self.epoch_length)
        return Draw(position, self._order(epoch)[offset] % self.length)

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._permutation = torch.randperm(self.epoch_length, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation


class SeededDraws(Dataset[dict[str, Any]]):
    """A dataset addressed by draws, whose randomness depends on the draw alone.

    Works with any dataset that draws from Python's, NumPy's or torch's global generators: all three are seeded from
    (seed, position) for the time of the draw and put back afterwards.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        words = np.random.SeedSequence((self.seed, draw.position)).generate_state(3)
        with untouched_random_state():
            random.seed(int(words[0]))
            np.random.seed(int(words[1]))
            torch.random.default_generator.manual_seed(int(words[2]))
            return self.dataset[draw.index]
