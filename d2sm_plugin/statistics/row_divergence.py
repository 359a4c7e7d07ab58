"""The divergence between two sets of features, row by row, from small differences instead of large sums.

Notation, for unit features ``x_i`` (restored) and ``y_i`` (clear) of the same sample i: the kernel is
``K_ij = (y_i.y_j + 1) / 2`` and ``K'_ij`` the same of x (paper, eq. 5); ``g(j|i) = K_ij / S_i`` with
``S_i = sum_{j != i} K_ij`` (eq. 3, 4), and ``g'`` alike. With the difference ``d = x - y``, the change of a kernel is

    K'_ij - K_ij = (d_i.x_j + y_i.d_j) / 2,    e_ij = (K'_ij - K_ij) / K_ij,    m_i = sum_j (K'_ij - K_ij) / S_i

and, with ``phi(t) = (1 + t) log(1 + t) - t`` and ``psi(t) = t - log(1 + t)``, both directions of eq. 2 become

    KL(g'_i || g_i) = (sum_j K_ij phi(e_ij) / S_i - phi(m_i)) / (1 + m_i)
    KL(g_i || g'_i) =  sum_j K_ij psi(e_ij) / S_i - psi(m_i)

Every term is of second order in e, so nothing large cancels: rows of g are nearly uniform and late in a training x is
close to y, where the logarithms of eq. 2 as printed cancel. Samples are kept as x and d: the forward pass takes three
products of new and old features, and the gradient, which is a sum of x, one. A row is known by four sums over its pairs
(:mod:`d2sm_plugin.statistics.row_sums`), which are added to as samples arrive and subtracted from as they leave;
between old samples nothing is ever recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from d2sm_plugin.statistics.pair_products import add_weighted, products
from d2sm_plugin.statistics.row_sums import SUMS, Slopes, psi, row_divergences

# Pairs that are held in float64 at a time: bounds the working memory whatever the queue and the batch.
_PAIRS_AT_ONCE = 2**20
# Under the root of a norm, for features of zeros (no activation at all).
_NORM_EPS = 1e-20


class Rows(NamedTuple):
    """Unit features of restored samples (n, D) and what they differ by from those of their clear ones (n, D)."""

    restored: Tensor
    difference: Tensor

    @property
    def clear(self) -> Tensor:
        """Unit features (n, D) of the clear samples."""
        return self.restored - self.difference

    def part(self, start: int, stop: int) -> Rows:
        """Rows start...stop - 1, as views."""
        return Rows(self.restored[start:stop], self.difference[start:stop])

    def to(self, dtype: torch.dtype) -> Rows:
        """The same rows in another dtype."""
        return Rows(self.restored.to(dtype), self.difference.to(dtype))


class History(NamedTuple):
    """Rows met before, perhaps in another dtype than new ones, and their sums (4, n), float64, over their old pairs."""

    rows: Rows
    sums: Tensor


class Matched(NamedTuple):
    """Result of :func:`match_statistics`.

    Attributes:
        value: sum of the divergences of all rows, float64 scalar.
        gradient: of ``value`` with respect to the unit features of the new restored samples, (n, D), or None.
        sums: of the new rows, (4, n), float64.
        history_sums: of the rows met before, one (4, m) for every part of the history, float64.
    """

    value: Tensor
    gradient: Tensor | None
    sums: Tensor
    history_sums: list[Tensor]


#: The four summands (m, n) of m partners with n rows, float64, in the order of their sums.
Terms = tuple[Tensor, Tensor, Tensor, Tensor]


class _Few(NamedTuple):
    """Rows to be paired with many partners: both kinds of features (2n, D), and clear ones (n, D)."""

    stacked: Tensor
    clear: Tensor

    @classmethod
    def of(cls, rows: Rows) -> _Few:
        """Lay out rows, once for all of the partners."""
        return cls(torch.cat(list(rows)), rows.clear)


class _Block(NamedTuple):
    """Relative changes (m, n) of the pairs of m partners with n new rows, kept for the gradient."""

    partners: Rows
    epsilon: Tensor
    sums: Tensor
    first: int | None  # place of the partners among the new rows; None for history


def unit_rows(restored: Tensor, clear: Tensor) -> tuple[Rows, Tensor]:
    """Normalise paired features.

    The difference of the unit vectors is formed from the difference of the features, so that it keeps all its digits
    when they are close.

    Args:
        restored: (n, D), float32 or float64.
        clear: likewise.

    Returns:
        The unit rows, and the norms (n, 1) of ``restored`` for :func:`through_norm`. A feature of zeros has no
        direction: its unit vector is zero, and its norm infinite, so that no gradient reaches it.
    """
    square = restored.square().sum(1, keepdim=True)
    norm = (square + _NORM_EPS).sqrt()
    clear_norm = (clear.square().sum(1, keepdim=True) + _NORM_EPS).sqrt()
    unit_clear, unit_restored = clear / clear_norm, restored / norm
    change = restored - clear
    norm_change = (change * (restored + clear)).sum(1, keepdim=True) / (norm + clear_norm)
    # x/|x| - y/|y| = (x - y - u (|x| - |y|)) / l, with l the larger norm and u the unit vector of the shorter one.
    unit_of_shorter = torch.where(norm < clear_norm, unit_restored, unit_clear)
    difference = (change - unit_of_shorter * norm_change) / torch.maximum(norm, clear_norm)
    return Rows(unit_restored, difference), norm.masked_fill(square == 0, torch.inf)


def through_norm(gradient: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    """Gradient (n, D) with respect to features from that with respect to their unit vectors ``unit`` (n, D)."""
    return (gradient - unit * (unit * gradient).sum(1, keepdim=True)) / norm


def match_statistics(new: Rows, history: Sequence[History], leaving: Rows, kind: str, with_gradient: bool) -> Matched:
    """Divergence over the rows of a history and of a new batch, all pairs counted, for the price of the new pairs.

    Args:
        new: rows of the new batch (n, D).
        history: parts of what was met before and stays, each with its sums over what was met before.
        leaving: rows (e, D) that these sums still count and that leave now.
        kind: a key of :data:`~d2sm_plugin.statistics.row_sums.KINDS`.
        with_gradient: also compute the gradient. It includes that of the rows of the history, whose columns of the
            new batch change with it.

    Time is O((n + e) q D) for q rows in all and working memory O(n q); no q x q tensor is made.
    """
    count = new.restored.shape[0]
    sums = new.restored.new_zeros((SUMS, count), dtype=torch.float64)
    few = _Few.of(new)
    all_few = _Few.of(Rows(*map(torch.cat, zip(new, leaving, strict=True)))) if len(leaving.restored) else few
    blocks: list[_Block] = []
    for part in history:
        epsilon, terms = _pair_terms(part.rows, all_few)
        part_sums = part.sums + torch.stack([_come_and_gone(term, count) for term in terms])
        sums += torch.stack([term[:, :count].sum(0) for term in terms])
        blocks.append(_Block(part.rows, epsilon[:, :count].contiguous(), part_sums, None))
    for start, stop in spans(0, count, count):
        partners = new.part(start, stop)
        epsilon, terms = _pair_terms(partners, few)
        for term in terms:
            term.diagonal(start).zero_()
        sums += torch.stack([term.sum(0) for term in terms])
        blocks.append(_Block(partners, epsilon, sums[:, start:stop], start))
    history_sums = [block.sums for block in blocks if block.first is None]
    if count + sum(part.shape[1] for part in history_sums) < 2:  # a lone sample has no statistics
        gradient = torch.zeros_like(new.restored) if with_gradient else None
        return Matched(sums.new_zeros(()), gradient, sums, history_sums)
    value = sum((row_divergences(part, kind).sum() for part in history_sums), row_divergences(sums, kind).sum())
    gradient = _gradient(new, sums, blocks, kind) if with_gradient else None
    return Matched(value, gradient, sums, history_sums)


def _come_and_gone(term: Tensor, count: int) -> Tensor:
    """Sum (m,) of a summand over the first ``count`` columns, less that over the rest."""
    return term.sum(1) if term.shape[1] == count else term[:, :count].sum(1) - term[:, count:].sum(1)


def spans(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """Cut samples start...stop - 1 into pieces whose pairs with ``rows`` partners may be held in float64 at a time."""
    step = max(1, _PAIRS_AT_ONCE // max(1, rows))
    for first in range(start, stop, step):
        yield first, min(stop, first + step)


def _pair_terms(partners: Rows, few: _Few) -> tuple[Tensor, Terms]:
    """Relative changes (m, n) of the pairs of m partners with n rows, in the dtype of the rows, and their summands."""
    count, dtype = len(few.clear), few.clear.dtype
    of_restored = products(partners.restored, few.stacked)
    change = of_restored[:, count:].double().add_(products(partners.difference, few.clear)).mul_(0.5)
    kernel = of_restored[:, :count].double().add_(1).mul_(0.5).sub_(change)
    # Opposite features have K = 0 and no logarithm; rounding may even give less. One unit of rounding is the floor.
    floor = torch.finfo(dtype).eps
    kernel.clamp_min_(floor)
    change = torch.maximum(change, floor - kernel)
    epsilon = change / kernel
    logarithm = epsilon.log1p()
    # Float32 features differ by nothing or by so much that float64 has digits to spare.
    psi_term = epsilon - logarithm if dtype == torch.float32 else psi(epsilon)
    phi_term = logarithm.mul_(epsilon).sub_(psi_term)
    return epsilon.to(dtype), (kernel, change, phi_term.mul_(kernel), psi_term.mul_(kernel))


def _gradient(new: Rows, sums: Tensor, blocks: Sequence[_Block], kind: str) -> Tensor:
    """Gradient (n, D) with respect to the unit features of the new restored samples."""
    gradient = torch.zeros_like(new.restored)
    slopes = Slopes.of(sums, gradient.dtype)
    for block in blocks:
        # The pair (i, j) stands in the row of i and in that of j.
        weights = slopes.at(block.epsilon, kind)
        weights += Slopes.of(block.sums[:, :, None], gradient.dtype).at(block.epsilon, kind)
        if block.first is not None:
            weights.diagonal(block.first).zero_()
        add_weighted(gradient, weights, block.partners.restored)
    return gradient
