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
(:data:`SUMS`), which are added to as samples arrive and subtracted from as they leave; between old samples nothing is
ever recomputed.
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
# Features that are multiplied, and where they are stored in half precision converted, at a time.
_VALUES_IN_CACHE = 2**21
_VALUES_AT_ONCE = 2**25
_SERIES_BELOW = 0.01
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
    """Rows met before, their sums (4, n), float64, over their pairs with other rows met before, and their first place.

    The rows may be stored in another dtype than the new ones. The place is that in the ring of a queue.
    """

    rows: Rows
    sums: Tensor
    start: int = 0


class Matched(NamedTuple):
    """What :func:`match_statistics` found.

    Attributes:
        value: sum of the divergences of all rows, float64 scalar.
        gradient: of ``value`` with respect to the unit features of the new restored samples, (n, D), or None.
        sums: of the new rows, (4, n), float64.
        history_sums: of the rows met before, one (4, m) for every part of the history, float64.
        by_block: for blocks of ``granule`` rows, the sums (4, blocks, n) of the new rows over their pairs with the
            rows of these blocks: a tensor for every part of the history, then those of the new rows. Empty without.
    """

    value: Tensor
    gradient: Tensor | None
    sums: Tensor
    history_sums: list[Tensor]
    by_block: list[Tensor]


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
    return Rows(unit_restored, difference), norm.masked_fill(square == 0, torch.inf)


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


def match_statistics(
    new: Rows, history: Sequence[History], leaving: Rows, kind: str, with_gradient: bool, granule: int = 0
) -> Matched:
    """Divergence over the rows of a history and of a new batch, all pairs counted, for the price of the new pairs.

    Args:
        new: rows of the new batch (n, D).
        history: parts of what was met before and stays, each with its sums over what was met before.
        leaving: rows (e, D) that these sums still count and that leave now.
        kind: a key of :data:`KINDS`.
        with_gradient: also compute the gradient. It includes that of the rows of the history, whose columns of the
            new batch change with it.
        granule: also return the sums of the new rows by blocks of so many rows, in the dtype of the rows. The sums of
            the new rows are then those of what is returned, so that subtracting all of it leaves nothing.

    Time is O((n + e) q D) for q rows in all and working memory O(n q); no q x q tensor is made.
    """
    count = new.restored.shape[0]
    sums = new.restored.new_zeros((SUMS, count), dtype=torch.float64)
    rows = Rows(torch.cat([new.restored, leaving.restored]), torch.cat([new.difference, leaving.difference]))
    blocks: list[_Block] = []
    by_block: list[Tensor] = []

    def add(terms: Tensor, start: int) -> None:
        if granule:
            by_block.append(_sums_by_block(terms, start, granule).to(new.restored.dtype))
            sums.add_(by_block[-1].double().sum(1))
        else:
            sums.add_(terms.sum(2))

    for part in history:
        epsilon, terms = _pair_terms(rows, part.rows)
        add(terms[:, :count], part.start)
        part_sums = part.sums + terms[:, :count].sum(1) - terms[:, count:].sum(1)
        blocks.append(_Block(part.rows, epsilon[:count].clone(), part_sums, None))
    for start, stop in spans(0, count, count, granule=granule or 1):
        columns = new.part(start, stop)
        epsilon, terms = _pair_terms(new, columns)
        terms.diagonal(-start, 1, 2).zero_()
        add(terms, start)
        blocks.append(_Block(columns, epsilon, sums[:, start:stop], start))
    history_sums = [block.sums for block in blocks if block.first_column is None]
    if count + sum(part.shape[1] for part in history_sums) < 2:  # a lone sample has no statistics
        gradient = torch.zeros_like(new.restored) if with_gradient else None
        return Matched(sums.new_zeros(()), gradient, sums, history_sums, by_block)
    value = sum((row_divergences(part, kind).sum() for part in history_sums), row_divergences(sums, kind).sum())
    gradient = _gradient(new, sums, blocks, kind) if with_gradient else None
    return Matched(value, gradient, sums, history_sums, by_block)


def _sums_by_block(terms: Tensor, start: int, granule: int) -> Tensor:
    """Sums (4, blocks, n) of terms (4, n, m) over blocks of columns; the first column has the place ``start``."""
    before, length = start % granule, terms.shape[2]
    behind = -(before + length) % granule
    if before or behind:
        terms = torch.nn.functional.pad(terms, (before, behind))
    return terms.unflatten(2, (-1, granule)).sum(3).transpose(1, 2)


def spans(start: int, stop: int, rows: int, granule: int = 1) -> Iterator[tuple[int, int]]:
    """Cut columns start...stop - 1 into pieces whose pairs with ``rows`` rows may be held in float64 at a time.

    The pieces begin at multiples of ``granule`` if ``start`` does, and hold at least that many columns.
    """
    step = max(granule, _PAIRS_AT_ONCE // max(1, rows) // granule * granule)
    for first in range(start, stop, step):
        yield first, min(stop, first + step)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` for few rows (n, D) and many (m, D), the many perhaps stored in another dtype."""
    few = left.T.contiguous()  # the many first, as they lie in memory: up to 1.7 times as fast on a CPU
    return torch.cat([part @ few for part in _parts(right, left.dtype, _at_once(right))]).T


def _add_weighted(total: Tensor, weights: Tensor, rows: Tensor) -> None:
    """Add ``weights @ rows`` to ``total`` (n, D) for weights (n, m) and rows (m, D), perhaps of another dtype."""
    step = len(rows) if rows.dtype == total.dtype else _at_once(rows)
    for some_weights, some_rows in zip(weights.split(step, 1), _parts(rows, total.dtype, step), strict=True):
        total.addmm_(some_weights, some_rows)


def _parts(rows: Tensor, dtype: torch.dtype, step: int) -> Iterator[Tensor]:
    """Rows in ``dtype``, ``step`` at a time; where they are converted, into the same memory each time."""
    buffer = None if rows.dtype == dtype else rows.new_empty(min(step, len(rows)), rows.shape[1], dtype=dtype)
    for part in rows.split(step):
        yield part if buffer is None else buffer[: len(part)].copy_(part)


def _at_once(rows: Tensor) -> int:
    """Rows that are best multiplied at a time: as many as a CPU's cache holds, or enough to fill a GPU."""
    values = _VALUES_IN_CACHE if rows.device.type == "cpu" else _VALUES_AT_ONCE
    return max(1, values // max(1, rows.shape[1]))


def _pair_terms(rows: Rows, columns: Rows) -> tuple[Tensor, Tensor]:
    """Relative changes (n, m) in the dtype of the rows, and the four summands (4, n, m) of their pairs in float64."""
    count, dtype = rows.restored.shape[0], rows.restored.dtype
    products = _products(torch.cat([rows.restored, rows.difference]), columns.restored)
    change = (products[count:].double() + _products(rows.clear, columns.difference).double()) / 2
    kernel = (products[:count].double() + 1) / 2 - change
    # Opposite features have K = 0 and no logarithm; rounding may even give less. One unit of rounding is the floor.
    floor = torch.finfo(dtype).eps
    kernel = kernel.clamp_min(floor)
    change = torch.maximum(change, floor - kernel)
    epsilon = change / kernel
    psi_term = psi(epsilon)
    phi_term = epsilon * torch.log1p(epsilon) - psi_term
    return epsilon.to(dtype), torch.stack([kernel, change, kernel * phi_term, kernel * psi_term])


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
    gradient = torch.zeros_like(new.restored)
    for block in blocks:
        # The pair (i, j) stands in row i, at column j, and in row j, at column i.
        epsilon = block.epsilon.double()
        weights = _pair_gradients(epsilon, sums[:, :, None], kind)
        weights += _pair_gradients(epsilon, block.sums[:, None, :], kind)
        if block.first_column is not None:
            weights.diagonal(-block.first_column).zero_()
        weights = (weights / 2).to(gradient.dtype)
        _add_weighted(gradient, weights, block.columns.restored)
    return gradient
