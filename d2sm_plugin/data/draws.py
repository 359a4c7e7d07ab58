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

from d2sm_plugin.data.draw_order import DrawOrder
from d2sm_plugin.random_guard import untouched_random_state


class Draw(NamedTuple):
    """One sample to be drawn."""

    position: int
    sample: int


class DrawSampler(Sampler[list[Draw]]):
    """Endless batches of draws for one rank.

    The joint batch ``b`` of all ranks starts at position ``b * batch_size * world_size``; rank r takes the r-th share.

    Args:
        order: of the samples.
        batch_size: samples a rank takes for each batch.
        rank: of this process.
        world_size: number of processes.
        start: position of the first draw, to continue a run.
    """

    def __init__(self, order: DrawOrder, batch_size: int, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.start
        while True:
            share = first + self.rank * self.batch_size
            positions = range(share, share + self.batch_size)
            yield [Draw(position, self.order.sample(position)) for position in positions]
            first += self.batch_size * self.world_size


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
            torch.default_generator.manual_seed(int(words[2]))
            return self.dataset[draw.sample]
