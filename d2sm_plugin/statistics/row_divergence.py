"""The divergence between two sets of features, row by row, from small differences instead of large sums.

Notation, for unit features ``x_i`` (restored) and ``y_i`` (clear) of the same sample i: the kernel is
``K_ij = (y_i.y_j + 1) / 2`` and ``K'_ij`` the same of x (paper, eq. 5); ``g(j|i) = K_ij / S_i`` with
``S_i = sum_{j != i} K_ij`` (eq. 3, 4), and ``g'`` alike. With the difference ``d = x - y``, the change of a kernel is

    K'_ij - K_ij = (d_i.x_j + y_i.d_j) / 2,    e_ij = (K'_ij - K_ij) / K_ij,    m_i = sum_j (K'_ij - K_ij) / S_i

and, with ``phi(t) = (1 + t) log(1 + t) - t`` and ``psi(t) = t - log(1 + t)``, both directions of eq. 2 become

    KL(g'_i || g_i) = (sum_j K_ij phi(e_ij) / S_i - phi(m_i)) / (1 + m_i)
    KL(g_i || g'_i) =  sum_j K_ij psi(e_ij) / S_i - psi(m_i)

Every term is of second order in e, so nothing large cancels: rows of g are nearly uniform and late in a training x is
close to y, where the logarithms of eq. 2 as printed cancel. With l_ij = log(1 + e_ij) the terms
are ``K phi(e) = K' l - (K' - K)`` and ``K psi(e) = (K' - K) - K l``, in float64, which has digits enough for features
in float32.

Samples are kept as x and d: the forward pass takes three products of new and old features, and the gradient, which is a
sum of x, one. A row is known by four sums over its pairs (:mod:`d2sm_plugin.statistics.row_sums`), which are added to
as samples arrive and subtracted from as they leave; between old samples nothing is ever recomputed. On a GPU a step of
this size takes as long as it has operations, so they work on all pairs and on several terms at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from d2sm_plugin.statistics.columns import Columns, Span
from d2sm_plugin.statistics.pair_products import add_products, add_weighted
from d2sm_plugin.statistics.row_sums import KINDS, LEAST_SAMPLES, SUMS
from d2sm_plugin.statistics.unit_rows import Rows

# Pairs whose terms are held in float64 at a time: bounds the working memory whatever the queue and the batch.
_PAIRS_AT_ONCE = 2**20
# So many pairs of new rows with leaving ones, which nothing needs, cost less than another round of operations.
_PAIRS_TO_SPARE = 2**16


class Matched(NamedTuple):
    """Result of :func:`match_statistics`.

    Attributes:
        value: sum of the divergences of all rows, float64 scalar.
        gradient: of ``value`` with respect to the unit features of the new restored samples, (n, D), or None.
        sums: of all partners, (4, m), float64.
    """

    value: Tensor
    gradient: Tensor | None
    sums: Tensor


class _Part(NamedTuple):
    """Partners start...stop - 1 and log(K' / K) of their pairs (m, n) with the new samples, kept for the gradient."""

    start: int
    stop: int
    logarithm: Tensor


def match_statistics(columns: Columns, partners: Rows, kind: str, with_gradient: bool) -> Matched:
    """Divergence over the rows of all partners for the price of their pairs with the columns.

    Args:
        columns: new samples and those that leave.
        partners: all samples that count now (m, D), new ones included, perhaps in another dtype.
        kind: a key of :data:`~d2sm_plugin.statistics.row_sums.KINDS`.
        with_gradient: also compute the gradient. It includes that of the rows of old samples, whose columns of the
            new batch change with it.

    Time is O(f m D) and working memory O(f m); no m x m tensor is made.
    """
    count, features = columns.arriving, columns.features
    statistics, parts = _sum_up(columns, partners)
    sums = statistics[:SUMS]
    if len(partners.restored) < LEAST_SAMPLES:
        gradient = features.new_zeros((count, len(features))) if with_gradient else None
        return Matched(sums.new_zeros(()), gradient, sums)
    value, slopes = _divergence(statistics, kind, columns.signs.excess)
    if not with_gradient:
        return Matched(value, None, sums)
    gradient = features.new_empty((count, len(features)))
    of_new = [_at(slope.parts, columns.places) for slope in slopes]
    for part in parts:
        rows = partners.restored[part.start : part.stop]
        weights, factor = _weights(part, slopes, of_new, features.dtype)
        if rows.dtype != features.dtype:
            # Else a sample's weight for itself lies along its unit vector, and goes with the gradient of the norm.
            _clear_own(weights[None], columns.places, part.start, part.stop)
        add_weighted(gradient, weights, rows, factor, anew=part is parts[0])
    return Matched(value, gradient, sums)


def spans(start: int, stop: int, columns: int) -> Iterator[Span]:
    """Cut samples start...stop - 1 into pieces whose pairs with ``columns`` others may be held in float64 at a time."""
    step = max(1, _PAIRS_AT_ONCE // max(1, columns))
    for first in range(start, stop, step):
        yield first, min(stop, first + step)


def _pieces(columns: Columns, partners: int) -> Iterator[tuple[int, int, int]]:
    """Pieces of the partners, and the number of columns that each is paired with."""
    count, width = columns.arriving, columns.width
    if count * (width - count) <= _PAIRS_TO_SPARE:
        parts = [(0, partners, width)]
    else:  # nothing needs the pairs of new samples with leaving ones
        parts, before = [], 0
        for start, stop in sorted(columns.places):
            parts += [(before, start, width), (start, stop, count)]
            before = stop
        parts.append((before, partners, width))
    for start, stop, of_part in parts:
        yield from ((*span, of_part) for span in spans(start, stop, of_part))


def _sum_up(columns: Columns, partners: Rows) -> tuple[Tensor, list[_Part]]:
    """Sums (4, m) of the partners, in front of two rows (2, m) to spare, and what is kept of the pairs."""
    arriving, total, signs = columns.arriving, len(partners.restored), columns.signs
    statistics = signs.rows.new_empty((SUMS + 2, total))
    sums = statistics[:SUMS]
    parts: list[_Part] = []
    of_new: list[Tensor] = []  # sums (4, 1, n) of new samples over each part
    few: dict[int, Tensor] = {}
    for start, stop, width in _pieces(columns, total):
        if width not in few:
            few[width] = columns.features.view(len(columns.features), 2, columns.width)[:, :, :width].flatten(1)
        terms, logarithm = _pair_terms(partners.part(start, stop), few[width])
        _clear_own(terms, columns.places, start, stop)
        factors, out = signs.columns[:, :width], sums[:, start:stop, None]
        if columns.history is None:
            torch.bmm(terms, factors, out=out)
        else:
            torch.baddbmm(columns.history[:, start:stop, None], terms, factors, out=out)
        at_once = stop - start == total and len(columns.places) == 1 and columns.joint is None
        place = sums[:, None, slice(*columns.places[0])] if at_once else None
        of_new.append(torch.bmm(signs.rows[:, :, start:stop], terms[:, :, :arriving], out=place))
        parts.append(_Part(start, stop, logarithm[:, :arriving]))
        if at_once:
            return statistics, parts
    for start, stop in columns.joint.places if columns.joint is not None else ():
        sums[:, start:stop] = 0
    first = 0
    for start, stop in columns.places:
        for number, part_sums in enumerate(of_new):
            piece = part_sums[:, 0, first : first + stop - start]
            sums[:, start:stop] = piece if number == 0 else sums[:, start:stop] + piece
        first += stop - start
    if columns.joint is not None:
        columns.joint.add(sums)
    return statistics, parts


def _pair_terms(partners: Rows, few: Tensor) -> tuple[Tensor, Tensor]:
    """Summands (4, m, f) of the pairs of m partners with f columns, and log(K' / K), all float64.

    They are in the order of the sums, the third one, K phi(e), negative.

    Args:
        partners: (m, D).
        few: restored columns and, behind them, their differences (D, 2f).
    """
    width = few.shape[1] // 2
    half = few.new_empty((len(partners.restored), 2 * width))
    add_products(half, partners.restored, few, 0.5, anew=True)
    add_products(half[:, width:], partners.difference, few[:, :width] - few[:, width:], 0.5)
    terms = torch.empty((SUMS + 1, len(half), width), dtype=torch.float64, device=half.device)
    kernels, change = terms[:2], terms[2]  # K' and K, K' - K
    torch.add(half[:, :width], 0.5, out=kernels[0])
    torch.sub(kernels[0], half[:, width:], out=kernels[1])
    # Opposite features have K = 0 and no logarithm; rounding may even give less. One unit of rounding is the floor.
    kernels.clamp_min_(torch.finfo(few.dtype).eps)
    torch.sub(kernels[0], kernels[1], out=change)
    logarithm = (change / kernels[1]).log1p_()
    torch.addcmul(change, kernels, logarithm, value=-1, out=terms[3:])  # -K phi(e), K psi(e)
    return terms[1:], logarithm


def _clear_own(terms: Tensor, places: Sequence[Span], start: int, stop: int) -> None:
    """Set to zero what partners start...stop - 1 have with themselves, in terms (..., stop - start, f) of pairs."""
    first = 0
    for begin, end in places:
        low, high = max(begin, start), min(end, stop)
        if low < high:
            columns = slice(first + low - begin, first + high - begin)
            terms[:, low - start : high - start, columns].diagonal(dim1=1, dim2=2).zero_()
        first += end - begin


def _at(values: Tensor, places: Sequence[Span]) -> Tensor:
    """Values (..., n) at places among (..., m)."""
    parts = [values[..., start:stop] for start, stop in places] or [values[..., :0]]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class _Slope(NamedTuple):
    """Derivative of a divergence by the cosine of a pair, ``factor * (b - a f(l))`` with a and b summed over its rows.

    Attributes:
        parts: a and b of each row (2, m), float64.
        factor: of all of it.
        decay: f(l) is exp(-l), not l itself.
    """

    parts: Tensor
    factor: float
    decay: bool


def _divergence(statistics: Tensor, kind: str, excess: Tensor) -> tuple[Tensor, list[_Slope]]:
    """Sum of the rows' divergences, and its slopes, from sums (4, m) and two rows to spare.

    ``excess`` is that of :class:`~d2sm_plugin.statistics.columns.Signs`.
    With S' = sum K', L = log(S' / S) and r = sum K' l / S' a row has r - L, in the other direction L - sum K l / S.
    """
    kernel, change, _, backward = statistics[:SUMS]
    torch.add(statistics[:3:2], change, out=statistics[SUMS:])  # S' and sum K' l
    ratios = statistics[1::SUMS] / statistics[::SUMS]
    mean_logarithm, of_restored = ratios[0].log1p_(), ratios[1]
    forward_weight, backward_weight = KINDS[kind]
    slopes: list[_Slope] = []
    values: list[Tensor] = []
    if forward_weight:
        values.append(torch.dot(ratios.flatten(), excess))
        parts = torch.empty_like(ratios)
        torch.reciprocal(statistics[SUMS], out=parts[0])
        torch.mul(of_restored, parts[0], out=parts[1])
        slopes.append(_Slope(parts, -0.5 * forward_weight, False))
    if backward_weight:
        values.append((mean_logarithm - (change - backward) / kernel).sum())
        slopes.append(_Slope(statistics[::SUMS].reciprocal(), 0.5 * backward_weight, True))
    return values[0] if len(values) == 1 else forward_weight * values[0] + backward_weight * values[1], slopes


def _weights(
    part: _Part, slopes: Sequence[_Slope], of_new: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, float]:
    """Derivatives (m, n) by the cosines of the pairs of a part with the new samples, but for a factor."""
    derivatives = []
    for slope, new in zip(slopes, of_new, strict=True):
        pairs = slope.parts[:, part.start : part.stop, None] + new[:, None, :]
        growth = part.logarithm.neg().exp_() if slope.decay else part.logarithm
        out = part.logarithm.new_empty(growth.shape, dtype=dtype) if len(slopes) == 1 else None
        derivatives.append(torch.addcmul(pairs[1], growth, pairs[0], value=-1, out=out))
    if len(slopes) == 1:
        return derivatives[0], slopes[0].factor
    weights = torch.add(slopes[0].factor * derivatives[0], derivatives[1], alpha=slopes[1].factor)
    return weights.to(dtype), 1.0
