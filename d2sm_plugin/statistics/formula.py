"""The divergence as the paper prints it, written plainly: the reference that the fast one is measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def printed_divergence(restored: Tensor, clear: Tensor) -> Tensor:
    """Equations 2 to 5 on features (q, D): two kernels of all pairs, normalised rows, the sum of g' log(g' / g)."""
    rows = []
    for features in (restored, clear):
        unit = F.normalize(features, dim=1)
        kernel = (unit @ unit.T + 1) / 2
        kernel = kernel - torch.diag(kernel.diagonal())
        rows.append(kernel / kernel.sum(1, keepdim=True))
    ours, theirs = rows
    others = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
    return (ours[others] * (ours[others] / theirs[others]).log()).sum()


class PrintedQueue:
    """Equations 7 and 8 by concatenation: the last q pairs, all of them compared anew at every step."""

    def __init__(self, restored: Tensor, clear: Tensor) -> None:
        self.restored, self.clear = restored.detach(), clear

    def __call__(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Divergence of the queue (q, D) after the new batch (N, D) has replaced the oldest entries."""
        joined = torch.cat([self.restored[len(restored) :], restored])
        self.restored, self.clear = joined.detach(), torch.cat([self.clear[len(clear) :], clear])
        return printed_divergence(joined, self.clear)
