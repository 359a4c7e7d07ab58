"""Distances of restored samples from their clear ones: each sample, and its place among the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.statistics.columns import Columns
from d2sm_plugin.statistics.row_divergence import match_statistics, spans
from d2sm_plugin.statistics.row_sums import row_divergences
from d2sm_plugin.statistics.unit_rows import Rows, unit_rows

# Similarities that differ by less are equal: the same features, summed up in another order.
_TIE = 1e-12


class PairedStatistics(NamedTuple):
    """One number for every sample, (N,), float64.

    Attributes:
        kl: its row of KL(restored || clear); the sum over the rows is eq. 2 of the paper.
        reverse_kl: its row of KL(clear || restored).
        squared: squared distance of its features to those of its clear one, divided by their number D.
        cosine: cosine distance to its clear one, ``1 - cos``, in [0, 2].
        own: 1 where the nearest of all clear samples of its group (by the cosine) is its own one, else 0.
    """

    kl: Tensor
    reverse_kl: Tensor
    squared: Tensor
    cosine: Tensor
    own_nearest: Tensor


def paired_statistics(restored: Tensor, clear: Tensor, groups: Sequence[Tensor]) -> PairedStatistics:
    """Compare features, in float64, with working memory that is bounded whatever their number.

    Args:
        restored: (N, D).
        clear: (N, D); row i belongs to row i of ``restored``.
        groups: index tensors that together hold every row once; the statistics of neighbours are those of a group.

    Raises:
        ShapeError: when the features are not two matrices of one shape.
    """
    if restored.ndim != 2 or restored.shape != clear.shape:
        raise ShapeError(
            f"features of restored and clear samples must both have the shape (N, D); got {tuple(restored.shape)} and "
            f"{tuple(clear.shape)}"
        )
    statistics = PairedStatistics(*(torch.zeros(len(restored), dtype=torch.float64) for _ in PairedStatistics._fields))
    for group in groups:
        x, y = (features[group.to(features.device)].double() for features in (restored, clear))
        rows, _ = unit_rows(x, y)
        sums = _row_sums(rows)
        statistics.kl[group] = row_divergences(sums, "kl").cpu()
        statistics.reverse_kl[group] = row_divergences(sums, "reverse_kl").cpu()
        statistics.squared[group] = (x - y).square().mean(1).cpu()
        statistics.cosine[group] = rows.difference.square().sum(1).div(2).cpu()  # of unit vectors: |x - y|² = 2 - 2 cos
        statistics.own_nearest[group] = _own_nearest(rows).double().cpu()
    return statistics


def _row_sums(rows: Rows) -> Tensor:
    """Sums (4, N) of every row over its pairs with all others."""
    return match_statistics(Columns.alone(rows), rows, "kl", with_gradient=False).sums


def _own_nearest(rows: Rows) -> Tensor:
    """Tell whether no clear sample is nearer to a restored one than its own, (N,)."""
    count, clear = len(rows.restored), rows.clear
    is_nearest = torch.empty(count, dtype=torch.bool, device=clear.device)
    for start, stop in spans(0, count, count):
        similarity = rows.restored[start:stop] @ clear.T
        is_nearest[start:stop] = similarity.diagonal(start) >= similarity.amax(1) - _TIE
    return is_nearest
