"""Products of the few rows of a batch with the many of a queue, which may be stored in half precision."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Values of the many that are converted or added at a time: as many as stay in a CPU's cache, or enough to fill a GPU.
_VALUES_IN_CACHE = 2**19
_VALUES_AT_ONCE = 2**25


def add_products(total: Tensor, many: Tensor, few: Tensor, factor: float = 1.0, anew: bool = False) -> None:
    """Add ``factor * many @ few`` to ``total`` (m, n), or put it there, for (m, D) of any dtype and (D, n)."""
    beta = 0.0 if anew else 1.0
    if many.dtype == few.dtype:
        total.addmm_(many, few, beta=beta, alpha=factor)
        return
    step = _rows_at_once(many)
    for some_rows, part in zip(total.split(step), _converted(many, few.dtype, step), strict=True):
        some_rows.addmm_(part, few, beta=beta, alpha=factor)


def add_weighted(total: Tensor, weights: Tensor, many: Tensor, factor: float = 1.0, anew: bool = False) -> None:
    """Add ``factor * weights.T @ many`` to ``total`` (n, D), or put it there, for weights (m, n) and (m, D)."""
    beta, step = 0.0 if anew else 1.0, _rows_at_once(many)
    for some_weights, part in zip(weights.split(step), _converted(many, total.dtype, step), strict=True):
        total.addmm_(some_weights.T, part, beta=beta, alpha=factor)
        beta = 1.0


def _converted(many: Tensor, dtype: torch.dtype, step: int) -> Iterator[Tensor]:
    """Rows in ``dtype``, ``step`` at a time; where they are converted, into the same memory each time."""
    buffer = None if many.dtype == dtype else many.new_empty(min(step, len(many)), many.shape[1], dtype=dtype)
    for part in many.split(step):
        yield part if buffer is None else buffer[: len(part)].copy_(part)


def _rows_at_once(many: Tensor) -> int:
    values = _VALUES_IN_CACHE if many.device.type == "cpu" else _VALUES_AT_ONCE
    return max(1, values // max(1, many.shape[1]))
