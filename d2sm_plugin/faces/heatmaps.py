"""Landmarks as heatmaps: drawing them, and reading points from those that a network predicts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from d2sm_plugin.errors import OptionError, suggest

#: Pixels of the image for each cell of a heatmap: 128 -> 32.
STRIDE = 4

Refinement = Literal["quarter", "none"]
REFINEMENTS = ("quarter", "none")


def draw_heatmaps(points: Tensor, size: tuple[int, int], stride: int = STRIDE, sigma: float = 1.0) -> Tensor:
    """Draw one heatmap for each point, as DICNet's training labels are.

    The Gaussian ``exp(-d^2 / (2 sigma^2))`` is not normalised and has its centre at ``point / stride``, between cells
    if need be, so its highest cell is usually below 1. Points outside the image leave only the tail of theirs.

    Args:
        points: (..., P, 2), x and y in pixels of the image.
        size: (rows, columns) of the heatmaps.
        stride: pixels for each cell.
        sigma: in cells.

    Returns:
        (..., P, rows, columns), in (0, 1].
    """
    rows, columns = (torch.arange(length, dtype=points.dtype, device=points.device) for length in size)
    centre = points / stride
    across = (columns - centre[..., 0:1]).square()
    down = (rows - centre[..., 1:2]).square()
    return torch.exp(-(down.unsqueeze(-1) + across.unsqueeze(-2)) / (2 * sigma**2))


def read_heatmaps(heatmaps: Tensor, stride: int = STRIDE, refinement: Refinement = "quarter") -> Tensor:
    """Return the points that heatmaps predict.

    Args:
        heatmaps: (..., P, rows, columns), at least two cells each.
        stride: pixels of the image for each cell.
        refinement: ``"quarter"`` as in DICNet's evaluation: each coordinate is ``stride`` times that of the highest
            cell, plus a quarter of ``stride`` where the second highest cell lies further along that axis, else (equal
            too) minus a quarter. ``"none"``: the highest cell alone.

    Returns:
        (..., P, 2), x and y in pixels, float32 or the type of the heatmaps.

    Raises:
        OptionError: for an unknown refinement.
    """
    if refinement not in REFINEMENTS:
        raise OptionError(f"refinement: '{refinement}' is unknown{suggest(refinement, REFINEMENTS)}")
    columns = heatmaps.shape[-1]
    highest, second = heatmaps.flatten(-2).topk(2, dim=-1).indices.unbind(-1)
    first = _cell(highest, columns, heatmaps.dtype)
    points = stride * first
    if refinement == "quarter":
        further = _cell(second, columns, heatmaps.dtype) > first
        points = points + torch.where(further, 1.0, -1.0).to(points) * (stride / 4)
    return points


def _cell(index: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.stack([index % columns, index // columns], dim=-1).to(dtype)
