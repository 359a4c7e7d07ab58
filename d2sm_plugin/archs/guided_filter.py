"""Guided filter (He, Sun, Tang, "Guided Image Filtering", TPAMI 2013): smooths a plane along the edges of another."""

from __future__ import annotations

import torch
from torch import Tensor


def guided_filter(guide: Tensor, values: Tensor, radius: int, eps: float) -> Tensor:
    """Smooth ``values`` so that edges stay where ``guide`` has them (equations 5, 6 and 8), in float64.

    Gradients flow to both. Time does not depend on the radius.

    Args:
        guide: (..., H, W), in [0, 1].
        values: (..., H, W).
        radius: of the square window of side ``2·radius + 1``; at the border only the part inside the image counts.
        eps: variance of the guide below which a window counts as flat.

    Returns:
        (..., H, W) of the type of ``values``.
    """
    guide, planes = guide.double(), values.double()
    mean_guide, mean_values = _window_mean(guide, radius), _window_mean(planes, radius)
    variance = _window_mean(guide * guide, radius) - mean_guide**2
    covariance = _window_mean(guide * planes, radius) - mean_guide * mean_values
    slope = covariance / (variance + eps)
    offset = mean_values - slope * mean_guide
    return (_window_mean(slope, radius) * guide + _window_mean(offset, radius)).to(values.dtype)


def _window_mean(planes: Tensor, radius: int) -> Tensor:
    for axis in (-2, -1):
        size = planes.shape[axis]
        position = torch.arange(size, device=planes.device)
        start, stop = (position - radius).clamp(min=0), (position + radius + 1).clamp(max=size)
        sums = torch.cat((torch.zeros_like(planes.narrow(axis, 0, 1)), planes.cumsum(axis)), dim=axis)
        count = (stop - start).reshape(-1, *[1] * (-1 - axis))
        planes = (sums.index_select(axis, stop) - sums.index_select(axis, start)) / count
    return planes
