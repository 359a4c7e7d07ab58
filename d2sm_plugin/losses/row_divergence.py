"""The divergence between two sets of features, row by row, from small differences instead of large sums.

Notation, for unit features ``x_i`` (restored) and ``y_i`` (clear) of the same sample i: the kernel is
``K_ij = (y_i.y_j + 1) / 2`` and ``K'_ij`` the same of x (paper, eq. 5); ``g(j|i) = K_ij / S_i`` with
``S_i = sum_{j != i} K_ij`` (eq. 3, 4), and ``g'`` alike. With the difference ``d = x - y``, the change of a kernel is

    K'_ij - K_ij = (d_i.y_j + x_i.d_j) / 2,    e_ij = (K'_ij - K_ij) / K_ij,    m_i = sum_j (K'_ij - K_ij) / S_i

and, with ``phi(t) = (1 + t) log(1 + t) - t`` and ``psi(t) = t - log(1 + t)``, both directions of eq. 2 become

    KL(g'_i || g_i) = (sum_j K_ij phi(e_ij) / S_i - phi(m_i)) / (1 + m_i)
    KL(g_i || g'_i) =  sum_j K_ij psi(e_ij) / S_i - psi(m_i)

Every term is of second order in e, so nothing large cancels: rows of g are nearly uniform and late in a training x is
close to y, where the logarithms of eq. 2 as printed cancel. A row is known by four sums over its pairs (:data:`SUMS`),
which are added to as samples arrive and subtracted from as they leave; between old samples nothing is ever recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Weight of KL(restored || clear) and of KL(clear || restored) in each kind of divergence.
KINDS = {"kl": (1.0, 0.0), "reverse_kl": (0.0, 1.0), "js": (0.5, 0.5)}

#: What is summed over the pairs of a row, in this order: K, K' - K, K phi(e), K psi(e).
SUMS = 4

# Pairs that are held in float64 at a time: bounds the working memory whatever the queue and the batch.
_PAIRS_AT_ONCE = 2**20
_SERIES_BELOW = 0.01
# Under the root of a norm, for features of zeros (no activation at all).
_NORM_EPS = 1e-20


class Rows(NamedTuple):
    """Unit features of clear samples (n, D) and what their restored counterparts differ by (n, D)."""

    clear: Tensor
    difference: Tensor

    @property
    def restored(self) -> Tensor:
        """Unit features (n, D) of the restored samples."""
        return self.clear + self.difference

    def part(self, start: int, stop: int) -> Rows:
        """Rows start...stop - 1, as views."""
        return Rows(self.clear[start:stop], self.difference[start:stop])


class History(NamedTuple):
    """Rows met before, and the sums (4, n), float64, of each over its pairs with other rows met before."""

    rows: Rows
    sums: Tensor


class Matched(NamedTuple):
    """What :func:`match_statistics` found.

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


class _Block(NamedTuple):
    """Relative changes (n, m) of the pairs of n new rows with m others, kept for the gradient."""

    columns: Rows
    epsilon: Tensor
    sums: Tensor
    first_column: int | None  # position of the columns among the new rows; None for history


def psi(t: Tensor) -> Tensor:
    """``t - log(1 + t)`` for t > -1 without cancellation near 0 (float64 in, float64 out)."""
    series = torch.zeros_like(t)
    for power in range(9, 1, -1):
        series = (1.0 if power % 2 == 0 else -1.0) / power + t * series
    return torch.where(t.abs() < _SERIES_BELOW, t * t * series, t - torch.log1p(t))


def phi(t: Tensor) -> Tensor:
    """``(1 + t) log(1 + t) - t`` for t > -1 without cancellation near 0 (float64 in, float64 out)."""
    return t * torch.log1p(t) - psi(t)


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
    return Rows(unit_clear, difference), norm.masked_fill(square == 0, torch.inf)


def through_norm(gradient: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    """Gradient (n, D) with respect to features from that with respect to their unit vectors ``unit`` (n, D)."""
    return (gradient - unit * (unit * gradient).sum(1, keepdim=True)) / norm


def row_divergences(sums: Tensor, kind: str) -> Tensor:
    """Divergence of each row from its sums (4, ...), float64."""
    kernel, change, forward, backward = sums
    mean = change / kernel
    forward_weight, backward_weight = KINDS[kind]
    value = torch.zeros_like(mean)
    if forward_weight:
        value = value + forward_weight * (forward / kernel - phi(mean)) / (1 + mean)
    if backward_weight:
        value = value + backward_weight * (backward / kernel - psi(mean))
    return value


def match_statistics(new: Rows, history: Sequence[History], leaving: Rows, kind: str, with_gradient: bool) -> Matched:
    """Divergence over the rows of a history and of a new batch, all pairs counted, for the price of the new pairs.

    Args:
        new: rows of the new batch (n, D).
        history: parts of what was met before and stays, each with its sums over what was met before.
        leaving: rows (e, D) that these sums still count and that leave now.
        kind: a key of :data:`KINDS`.
        with_gradient: also compute the gradient. It includes that of the rows of the history, whose columns of the
            new batch change with it.

    Time is O((n + e) q D) for q rows in all and working memory O(n q); no q x q tensor is made.
    """
    count = new.clear.shape[0]
    sums = new.clear.new_zeros((SUMS, count), dtype=torch.float64)
    rows = Rows(torch.cat([new.clear, leaving.clear]), torch.cat([new.difference, leaving.difference]))
    blocks: list[_Block] = []
    for part in history:
        epsilon, terms = _pair_terms(rows, part.rows)
        sums += terms[:, :count].sum(2)
        part_sums = part.sums + terms[:, :count].sum(1) - terms[:, count:].sum(1)
        blocks.append(_Block(part.rows, epsilon[:count].clone(), part_sums, None))
    for start, stop in spans(0, count, count):
        columns = new.part(start, stop)
        epsilon, terms = _pair_terms(new, columns)
        terms.diagonal(-start, 1, 2).zero_()
        sums += terms.sum(2)
        blocks.append(_Block(columns, epsilon, sums[:, start:stop], start))
    history_sums = [block.sums for block in blocks if block.first_column is None]
    if count + sum(part.shape[1] for part in history_sums) < 2:  # a lone sample has no statistics
        return Matched(sums.new_zeros(()), torch.zeros_like(new.clear) if with_gradient else None, sums, history_sums)
    value = sum((row_divergences(part, kind).sum() for part in history_sums), row_divergences(sums, kind).sum())
    return Matched(value, _gradient(new, sums, blocks, kind) if with_gradient else None, sums, history_sums)


def spans(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """Cut columns start...stop - 1 into pieces whose pairs with ``rows`` rows may be held in float64 at a time."""
    step = max(1, _PAIRS_AT_ONCE // max(1, rows))
    for first in range(start, stop, step):
        yield first, min(stop, first + step)


def _pair_terms(rows: Rows, columns: Rows) -> tuple[Tensor, Tensor]:
    """Relative changes (n, m) in the dtype of the rows, and the four summands (4, n, m) of their pairs in float64."""
    count = rows.clear.shape[0]
    products = torch.cat([rows.clear, rows.difference]) @ columns.clear.T
    kernel = (products[:count].double() + 1) / 2
    change = (products[count:].double() + (rows.restored @ columns.difference.T).double()) / 2
    # Opposite features have K = 0 and no logarithm; rounding may even give less. One unit of rounding is the floor.
    floor = torch.finfo(rows.clear.dtype).eps
    kernel = kernel.clamp_min(floor)
    change = torch.maximum(change, floor - kernel)
    epsilon = change / kernel
    psi_term = psi(epsilon)
    phi_term = epsilon * torch.log1p(epsilon) - psi_term
    return epsilon.to(rows.clear.dtype), torch.stack([kernel, change, kernel * phi_term, kernel * psi_term])


def _pair_gradients(epsilon: Tensor, sums: Tensor, kind: str) -> Tensor:
    """Derivative of the divergence of a row by K' of each of its pairs: ``epsilon`` (n, m), ``sums`` broadcast."""
    kernel, change = sums[0], sums[1]
    mean = change / kernel
    deviation = epsilon - mean
    forward_weight, backward_weight = KINDS[kind]
    gradient = torch.zeros_like(epsilon)
    if forward_weight:
        ratio = torch.log1p(deviation / (1 + mean)) - row_divergences(sums, "kl")
        gradient += forward_weight * ratio / (kernel * (1 + mean))
    if backward_weight:
        gradient += backward_weight * deviation / ((1 + epsilon) * (1 + mean) * kernel)
    return gradient


def _gradient(new: Rows, sums: Tensor, blocks: Sequence[_Block], kind: str) -> Tensor:
    """Gradient (n, D) with respect to the unit features of the new restored samples."""
    gradient = torch.zeros_like(new.clear)
    for block in blocks:
        # The pair (i, j) stands in row i, at column j, and in row j, at column i.
        epsilon = block.epsilon.double()
        weights = _pair_gradients(epsilon, sums[:, :, None], kind)
        weights += _pair_gradients(epsilon, block.sums[:, None, :], kind)
        if block.first_column is not None:
            weights.diagonal(-block.first_column).zero_()
        weights = (weights / 2).to(gradient.dtype)
        gradient += weights @ block.columns.clear
        gradient += weights @ block.columns.difference
    return gradient
