"""What leaving samples have contributed to the sums of those that stay, written down as samples arrive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2sm_plugin.losses.state_module import StateModule
from d2sm_plugin.statistics.row_sums import SUMS


class QueueLedger(StateModule):
    """Sums over the pairs of each row with each block of older rows of a ring.

    When a batch arrives, all its pairs with the queue are computed. Their sums by blocks of the ring are kept, so that
    a block that leaves can be subtracted without computing its pairs again, which would take as long as the pairs of
    the new batch. The blocks are as large as the greatest common divisor of batch and ring allows; batches of equal
    size that divides that of the ring make the smallest ledger. There is none where it would take more memory than the
    features in float32, with more than D / 2 blocks: then the pairs are computed again, to the same result.

    Args:
        size: rows of the ring.

    Attributes:
        blocks: (4, blocks, size), in the dtype of computation: row i, by the block it was met in; no blocks, no ledger.
        covered: how many of the newest rows stand in it completely.
    """

    host_buffers = ("covered",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("blocks", torch.empty(SUMS, 0, size))
        self.register_buffer("covered", torch.zeros((), dtype=torch.int64))

    @property
    def granule(self) -> int:
        """Rows of a block; 0 without a ledger."""
        return self.size // self.blocks.shape[1] if self.blocks.shape[1] else 0

    def reset(self) -> None:
        """Forget everything."""
        self.blocks = self.blocks.new_empty(SUMS, 0, self.size)
        self.covered.zero_()

    def arrange(self, arriving: int, pointer: int, features: Tensor) -> None:
        """Make ready for a batch; one that does not fit the blocks begins a new ledger, if its blocks are not too many.

        Args:
            arriving: size of the batch.
            pointer: row that it begins at.
            features: (n, D), of the dtype and device of computation.
        """
        self.blocks = self.blocks.to(features.device)
        if self.granule and not (arriving % self.granule or pointer % self.granule):
            return
        number = self.size // math.gcd(arriving, self.size, pointer)
        if 2 * number > features.shape[1]:
            number = 0
        self.blocks = features.new_zeros(SUMS, number, self.size)
        self.covered.zero_()

    def knows(self, leaving: int, held: int) -> bool:
        """Whether the contributions of the oldest ``leaving`` of ``held`` rows can be read here."""
        return bool(self.granule) and int(self.covered) == held and leaving % self.granule == 0

    def contributions(self, spans: Iterable[tuple[int, int]]) -> Tensor:
        """Sums (4, size), float64, over the pairs of all rows with those in ``spans``, which are whole blocks."""
        parts = [self.blocks[:, start // self.granule : stop // self.granule] for start, stop in spans]
        return torch.cat(parts, 1).double().sum(1)

    def write(self, rows: Sequence[tuple[int, int]], found: Sequence[tuple[int, Tensor]], held: int) -> None:
        """Enter a batch.

        Args:
            rows: spans of the ring that it takes, in its order.
            found: first block, and sums (4, blocks, n) of the batch over its pairs with the rows of these blocks.
            held: rows in the ring afterwards.
        """
        arriving = done = 0
        for start, stop in rows:
            taken = slice(done, done + stop - start)
            self.blocks[:, :, start:stop] = 0
            for first, sums in found:
                self.blocks[:, first : first + sums.shape[1], start:stop] += sums[:, :, taken]
            done = taken.stop
            arriving += stop - start
        self.covered.fill_(min(held, int(self.covered) + arriving))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take over the number of blocks, which an empty ledger does not know yet."""
        stored = state_dict.get(f"{prefix}blocks")
        if stored is not None and stored.shape[-1] == self.size:
            self.blocks = torch.zeros_like(stored, device=self.blocks.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
