"""Divergences without a row form: all pairs of samples at once, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d2sm_plugin.statistics.formula import printed_divergence
from d2sm_plugin.statistics.unit_rows import Rows


def match_densely(new: Rows, history: Sequence[Rows], kind: str, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Divergence of any registered kind over the rows of a history and of a new batch.

    Time and memory are those of a q x q matrix for q rows in all.

    Args:
        new: unit rows of the new batch (n, D).
        history: those met before, in parts, in any dtype.
        kind: a key of :data:`~d2sm_plugin.statistics.formula.DIVERGENCES`.
        with_gradient: also compute the gradient.

    Returns:
        The sum of the divergences of all rows, a float64 scalar; and its gradient (n, D) with respect to the unit
        features of the new restored samples, in their dtype, or None.
    """
    rows = [part.to(torch.float64) for part in (*history, new)]
    if sum(len(part.restored) for part in rows) < 2:  # a lone sample has no statistics
        zero = torch.zeros((), dtype=torch.float64, device=new.restored.device)
        return zero, torch.zeros_like(new.restored) if with_gradient else None
    with torch.enable_grad():
        restored = rows[-1].restored.detach().requires_grad_(with_gradient)
        joined = torch.cat([*(part.restored for part in rows[:-1]), restored])
        value = printed_divergence(joined, torch.cat([part.clear for part in rows]), kind)
        gradient = torch.autograd.grad(value, restored)[0].to(new.restored.dtype) if with_gradient else None
    return value.detach(), gradient
