"""Samples that are paired with all others in a step of the divergence: new ones, and those that leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from d2sm_plugin.statistics.row_sums import SUMS
from d2sm_plugin.statistics.unit_rows import Rows

# The term that is computed with the other sign: K phi(e), by its place among the sums.
_NEGATIVE = 2

#: Rows ``start`` ... ``stop - 1``.
Span = tuple[int, int]


class Signs(NamedTuple):
    """Factors of the terms of pairs in the sums of their rows, float64; they depend on numbers of samples alone.

    Attributes:
        columns: (4, f, 1), in the sums of partners: 1 for new columns, -1 for leaving ones.
        rows: (4, 1, m), in the sums of new samples.
    """

    columns: Tensor
    rows: Tensor

    @classmethod
    def of(cls, new: int, leaving: int, partners: int, device: torch.device) -> Signs:
        """Return the factors for so many samples of each kind."""
        columns = torch.ones((SUMS, new + leaving, 1), dtype=torch.float64, device=device)
        rows = torch.ones((SUMS, 1, partners), dtype=torch.float64, device=device)
        columns[:, new:] = -1
        columns[_NEGATIVE].neg_()
        rows[_NEGATIVE] = -1
        return cls(columns, rows)

    @property
    def excess(self) -> Tensor:
        """Factors (2m,) whose product with two rows (2, m) is the sum of what the second exceeds the first by."""
        return self.rows[_NEGATIVE : _NEGATIVE + 2].flatten()


class Joint(NamedTuple):
    """Other processes, which have further columns of the same partners.

    Attributes:
        places: where the new samples of all processes are among the partners.
        add: sums a tensor over the processes, in place.
    """

    places: Sequence[Span]
    add: Callable[[Tensor], object]


class Columns(NamedTuple):
    """Samples that are paired with all others.

    Attributes:
        features: of new samples and, behind them, leaving ones: restored ones and then differences (D, 2f), contiguous,
            as one sample a column is what products with many rows are fastest with.
        places: where the new ones are among their partners, in their order.
        signs: of their terms.
        history: sums (4, m) of the partners over what was met before, leaving samples included; those at ``places``
            do not matter. None where nothing was, and on all processes but one.
        joint: None for a single process.
    """

    features: Tensor
    places: Sequence[Span]
    signs: Signs
    history: Tensor | None = None
    joint: Joint | None = None

    @property
    def arriving(self) -> int:
        """Number of new samples."""
        return sum(stop - start for start, stop in self.places)

    @property
    def width(self) -> int:
        """Number of columns, f."""
        return self.features.shape[1] // 2

    @classmethod
    def alone(cls, rows: Rows) -> Columns:
        """All of a set of samples, which are their own partners."""
        count = len(rows.restored)
        return cls(side_by_side([rows]), [(0, count)], Signs.of(count, 0, count, rows.restored.device))

    @classmethod
    def shared(cls, rows: Rows, part: Span, add: Callable[[Tensor], object]) -> Columns:
        """A part of a set of samples, which are their own partners; other processes have the rest."""
        count, (start, stop) = len(rows.restored), part
        signs = Signs.of(stop - start, 0, count, rows.restored.device)
        return cls(side_by_side([rows.part(start, stop)]), [part], signs, joint=Joint([(0, count)], add))


def side_by_side(parts: Sequence[Rows]) -> Tensor:
    """Features (D, 2f) of rows (f, D) in parts, as :class:`Columns` has them."""
    return torch.cat([part.restored.T for part in parts] + [part.difference.T for part in parts], 1)
