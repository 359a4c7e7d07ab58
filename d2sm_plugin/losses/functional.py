"""The D2SM divergence as a function, without state."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.losses.gather import Share
from d2sm_plugin.statistics.columns import Columns
from d2sm_plugin.statistics.dense_divergence import match_densely
from d2sm_plugin.statistics.formula import DIVERGENCES
from d2sm_plugin.statistics.precision import full_precision
from d2sm_plugin.statistics.row_divergence import match_statistics
from d2sm_plugin.statistics.row_sums import KINDS, LEAST_SAMPLES
from d2sm_plugin.statistics.unit_rows import Norms, through_norm, unit_rows

REDUCTIONS = ("sum", "mean")


def semantic_divergence(
    restored: Tensor, clear: Tensor, kind: str = "kl", reduction: str = "sum", share: Share | None = None
) -> Tensor:
    r"""Divergence between the neighbour statistics of two sets of features (paper, eq. 2 to 5).

    With ``K(a, b) = (cos(a, b) + 1) / 2`` and ``g(j|i) = K(y_j, y_i) / sum_{k != i} K(y_k, y_i)`` of clear features y,
    ``g'`` alike of restored features x, it is ``sum_i sum_{j != i} g'(j|i) log(g'(j|i) / g(j|i))``. It is zero, with
    zero gradient, when x = y. It is computed by the row form of :mod:`d2sm_plugin.statistics.row_divergence`, in
    float64 for float64 features and in float32 for all others, autocast or not.

    Args:
        restored: features (N, D) of restored images; row i belongs to row i of ``clear``.
        clear: features (N, D) of clear images, taken as constants: no gradient reaches them.
        kind: ``"kl"`` is KL(restored || clear), the paper's eq. 2; ``"reverse_kl"`` is KL(clear || restored), the
            iKLD of Table 4; ``"js"`` is half the sum of both, the paper's eq. 10 (half the Jeffreys divergence);
            ``"js_mixture"`` is the textbook Jensen-Shannon divergence, which compares with a mixture; or another kind
            of :func:`~d2sm_plugin.statistics.formula.register_divergence`. The last two take N x N matrices.
        reduction: ``"sum"`` as in eq. 2, or ``"mean"``, the sum divided by N.
        share: rows of this process among those of all that hold the same features; the others' rows get no gradient
            then. Kinds without a row form do not share their work. None for a single process.

    Returns:
        A scalar >= 0. It can be differentiated once. With N < 3 both are zero whatever the features, as each row has
        one neighbour at most, and a warning says so.

    Raises:
        OptionError: for an unknown ``kind`` or ``reduction``.
        ShapeError: when the features are not two floating point matrices of one shape.

    >>> clear = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 0.8], [-1.0, 1.0]], dtype=torch.float64)
    >>> restored = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 2.0]], dtype=torch.float64)
    >>> round(semantic_divergence(restored, clear).item(), 10)
    0.0891497567
    """
    check_options(kind, reduction)
    check_features(restored, clear)
    if len(restored) < LEAST_SAMPLES:
        warnings.warn(
            f"the statistics of {len(restored)} sample(s) are the same for any features, so the divergence and its "
            f"gradient are 0; compare {LEAST_SAMPLES} samples at least: a larger batch, patches, or a queue",
            stacklevel=2,
        )
    dtype = computing_dtype(restored)
    with_gradient = restored.requires_grad and torch.is_grad_enabled()
    with torch.no_grad(), full_precision(restored.device):
        rows, norms = unit_rows(restored.to(dtype), clear.to(dtype))
        if kind in KINDS:
            columns = Columns.alone(rows) if share is None else Columns.shared(rows, share.rows, share.add)
            value, gradient, _ = match_statistics(columns, rows, kind, with_gradient)
        else:
            value, gradient = match_densely(rows, [], kind, with_gradient)
        scale = 1.0 if reduction == "sum" else 1.0 / max(1, restored.shape[0])
        value = sound_value(value, norms, scale, dtype)
        if gradient is None:
            return value
        gradient = to_features(gradient, rows.restored, norms.restored, scale, share if kind in KINDS else None)
    return attach_gradient(restored, value, gradient)


def to_features(gradient: Tensor, unit: Tensor, norm: Tensor, scale: float, share: Share | None) -> Tensor:
    """Gradient (N, D) with respect to features from that with respect to unit vectors, of all rows or of a share's."""
    if share is None:
        return through_norm(gradient, unit, norm, scale)
    whole, rows = torch.zeros_like(unit), slice(*share.rows)
    whole[rows] = through_norm(gradient, unit[rows], norm[rows], scale)
    return whole


def sound_value(value: Tensor, norms: Norms, scale: float, dtype: torch.dtype) -> Tensor:
    """Return ``scale * value`` in ``dtype``, NaN where a feature is not finite."""
    if scale != 1:
        value = value * scale
    return torch.add(value, norms.pairs.sum(), alpha=0, out=value.new_empty((), dtype=dtype))


def attach_gradient(features: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return the scalar ``value`` as a function of ``features`` (N, D) with the known ``gradient`` (N, D).

    A value of NaN gives a gradient of NaN, as autograd would: whoever looks at gradients alone must not step. Both
    tensors are overwritten.
    """
    gradient.add_(value, alpha=0)
    return _KnownGradient.apply(features, value, gradient)


class _KnownGradient(torch.autograd.Function):
    """A scalar whose gradient was computed along with it, which is cheaper here than keeping what it is made of."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = features.dtype
        return value.detach()  # a view would forbid that a caller adds to it in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad_output * gradient).to(ctx.dtype), None, None


def computing_dtype(features: Tensor) -> torch.dtype:
    """Float64 for float64 features, float32 for all others."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def check_options(kind: str, reduction: str) -> None:
    """Raise an OptionError unless ``kind`` and ``reduction`` are known."""
    if kind not in DIVERGENCES:
        raise OptionError(f"divergence: '{kind}' is unknown{suggest(kind, DIVERGENCES)}")
    if reduction not in REDUCTIONS:
        raise OptionError(f"reduction: '{reduction}' is unknown{suggest(reduction, REDUCTIONS)}")


def check_features(restored: Tensor, clear: Tensor) -> None:
    """Raise a ShapeError unless the features are two floating point matrices of one shape."""
    if restored.ndim != 2 or restored.shape != clear.shape:
        raise ShapeError(
            f"features of restored and clear samples must both have the shape (N, D); got {tuple(restored.shape)} and "
            f"{tuple(clear.shape)}"
        )
    if not (restored.is_floating_point() and clear.is_floating_point()):
        raise ShapeError(f"features must be floating point; got {restored.dtype} (restored) and {clear.dtype} (clear)")
