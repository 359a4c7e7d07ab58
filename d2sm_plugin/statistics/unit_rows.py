"""Paired features as unit vectors: restored ones, and what they differ by from clear ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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


class Norms(NamedTuple):
    """Norms of features.

    Attributes:
        restored: (n, 1), float64; infinite for features without a direction, so that no gradient reaches them.
        pairs: (n, 1), float64; sum of the norms of a pair, which is not finite where one of its features is not.
    """

    restored: Tensor
    pairs: Tensor


def unit_rows(restored: Tensor, clear: Tensor) -> tuple[Rows, Norms]:
    """Normalise paired features.

    Unit vectors and their difference are formed in float64, so that the difference of float32 features keeps all its
    digits when they are close.

    Args:
        restored: (n, D), float32 or float64.
        clear: likewise.

    Returns:
        The unit rows, in the dtype of the features, and their norms for :func:`through_norm`. A feature of zeros has
        no direction: its unit vector is zero. So is that of a feature whose norm is below the smallest normal number
        of its dtype: few digits are left of it, and its gradient would overflow. A pair that is not finite becomes a
        pair of zeros.
    """
    features = torch.stack([restored, clear])
    norm = torch.linalg.vector_norm(features, dim=2, keepdim=True, dtype=torch.float64)
    total = norm.sum(0)
    norm = torch.nn.functional.threshold(norm, torch.finfo(features.dtype).tiny, torch.inf)
    unit = features / norm
    torch.sub(unit[0], unit[1], out=unit[1])
    rows = unit.to(features.dtype).masked_fill_((total < torch.inf).logical_not_(), 0)
    return Rows(*rows), Norms(norm[0], total)


def through_norm(gradient: Tensor, unit: Tensor, norm: Tensor, scale: float = 1.0) -> Tensor:
    """Gradient (n, D) with respect to features from that with respect to their unit vectors, which is overwritten.

    Args:
        gradient: (n, D).
        unit: vectors (n, D).
        norm: of the features (n, 1), float64.
        scale: factor on the result.
    """
    along = torch.bmm(unit[:, None, :], gradient[:, :, None])[:, 0]
    return gradient.addcmul_(unit, along, value=-1).div_(norm if scale == 1 else norm / scale)
