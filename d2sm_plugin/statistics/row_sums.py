"""The divergence of a row, and its slope at each of its pairs, from four sums over them.

The notation is that of :mod:`d2sm_plugin.statistics.row_divergence`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: With two samples each has one neighbour, whose share is 1 whatever they look like: no statistics, and no gradient.
LEAST_SAMPLES = 3

#: Weight of KL(restored || clear) and of KL(clear || restored) in each kind of divergence that has a row form.
KINDS = {"kl": (1.0, 0.0), "reverse_kl": (0.0, 1.0), "js": (0.5, 0.5)}

#: What is summed over the pairs of a row, in this order: K, K' - K, K phi(e), K psi(e).
SUMS = 4

_SERIES_BELOW = 0.001


def psi(t: Tensor) -> Tensor:
    """``t - log(1 + t)`` for t > -1 without cancellation near 0 (float64 in, float64 out)."""
    series = t * (1 / 6) - 1 / 5
    for coefficient in (1 / 4, -1 / 3, 1 / 2):
        series.mul_(t).add_(coefficient)
    return torch.where(t.abs() < _SERIES_BELOW, series.mul_(t).mul_(t), t - torch.log1p(t))


def phi(t: Tensor) -> Tensor:
    """``(1 + t) log(1 + t) - t`` for t > -1 without cancellation near 0 (float64 in, float64 out)."""
    return t * torch.log1p(t) - psi(t)


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


class Slopes(NamedTuple):
    """Parts of the derivative of rows' divergence by the cosines of their pairs, in one dtype."""

    mean: Tensor
    shrink: Tensor
    divergence: Tensor
    scale: Tensor

    @classmethod
    def of(cls, sums: Tensor, dtype: torch.dtype) -> Slopes:
        """From sums (4, ...) of rows."""
        mean = sums[1] / sums[0]
        parts = (mean, 1 / (1 + mean), row_divergences(sums, "kl"), 0.5 / (sums[0] * (1 + mean)))
        return cls(*(part.to(dtype) for part in parts))

    def at(self, epsilon: Tensor, kind: str) -> Tensor:
        """Derivatives (m, n) at relative changes (m, n)."""
        forward_weight, backward_weight = KINDS[kind]
        deviation = epsilon - self.mean
        summands = []
        if forward_weight:
            forward = (deviation * self.shrink).log1p_().sub_(self.divergence)
            summands.append(forward.mul_(forward_weight * self.scale))
        if backward_weight:
            summands.append(deviation.div_(1 + epsilon).mul_(backward_weight * self.scale))
        return summands[0] if len(summands) == 1 else summands[0] + summands[1]
