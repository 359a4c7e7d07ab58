"""Products of the few rows of a batch with the many of a queue, which may be stored in half precision."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Values of the many that are converted or added at a time: as many as stay in a CPU's cache, or enough to fill a GPU.
_VALUES_IN_CACHE = 2**19
_VALUES_AT_ONCE = 2**25


def products(many: Tensor, few: Tensor) -> Tensor:
    """``many @ few.T`` in the dtype of ``few`` for (m, D), perhaps of another dtype, and (n, D)."""
    columns = few.T.contiguous()
    if many.dtype == few.dtype:
        return many @ columns
    return torch.cat([part @ columns for part in _converted(many, few.dtype, _rows_at_once(many))])


def add_weighted(total: Tensor, weights: Tensor, many: Tensor) -> None:
    """Add ``weights.T @ many`` to ``total`` (n, D) for weights (m, n) and (m, D), perhaps of another dtype."""
    step = _rows_at_once(many)
    for some_weights, part in zip(weights.split(step), _converted(many, total.dtype, step), strict=True):
        total.addmm_(some_weights.T, part)


def _converted(many: Tensor, dtype: torch.dtype, step: int) -> Iterator[Tensor]:
    """Rows in ``dtype``, ``step`` at a time; where they are converted, into the same memory each time."""
    buffer = None if many.dtype == dtype else many.new_empty(min(step, len(many)), many.shape[1], dtype=dtype)
    for part in many.split(step):
        yield part if buffer is None else buffer[: len(part)].copy_(part)


def _rows_at_once(many: Tensor) -> int:
    values = _VALUES_IN_CACHE if many.device.type == "cpu" else _VALUES_AT_ONCE
    return max(1, values // max(1, many.shape[1]))
