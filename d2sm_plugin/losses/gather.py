"""One joint batch out of the batches of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2sm_plugin.errors import ShapeError


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks.

    Args:
        rows: (n, ...), the same shape on every process.

    Returns:
        (world size * n, ...). In the backward pass each process gets the gradient of its own rows times the world
        size: every process computes the same loss of the joint batch, and DistributedDataParallel then divides the
        gradients of the network by the world size.
    """
    return _GatherRows.apply(rows) if world_size() > 1 else rows


def check_equal_rows(count: int, device: torch.device) -> None:
    """Raise a ShapeError on every process unless all hold ``count`` rows (waits for the device)."""
    if world_size() == 1:
        return
    counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor(count, device=device))
    row_counts = [int(entry) for entry in counts]
    if len(set(row_counts)) > 1:
        raise ShapeError(
            f"D2SMLoss: the processes hold batches of different size ({', '.join(map(str, row_counts))} samples by "
            f"rank); give every process the same batch size and drop the last, incomplete batch"
        )


def mean_over_processes(number: Tensor) -> Tensor:
    """Return the mean of a number over all processes, float32, without a graph; every process must call this."""
    number = number.detach().float()
    if world_size() > 1:
        number = number.clone()
        dist.all_reduce(number)
    return number / world_size()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = rows.shape[0]
        rows = rows.contiguous()
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows)
        return torch.cat(gathered)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        first = dist.get_rank() * ctx.count
        return gradient[first : first + ctx.count] * world_size()
