"""One joint batch out of the batches of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2sm_plugin.errors import ShapeError


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Share(NamedTuple):
    """Part of a joint batch that belongs to one of the processes which hold it, in the order of their ranks.

    Attributes:
        rank: of this process.
        ranks: number of processes.
        rows: first row of this process and the one behind its last.
    """

    rank: int
    ranks: int
    rows: tuple[int, int]

    def behind(self, cut: int) -> Share:
        """Return the share in the same batch without its first ``cut`` rows."""
        start, stop = self.rows
        return self._replace(rows=(max(0, start - cut), max(0, stop - cut)))

    def places(self, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return where this process's rows are, from where those of the batch are, one behind the other."""
        places_here, first = [], 0
        for start, stop in places:
            low, high = (min(max(row - first, 0), stop - start) for row in self.rows)
            if low < high:
                places_here.append((start + low, start + high))
            first += stop - start
        return places_here

    def part_of(self, count: int) -> tuple[int, int]:
        """Return this process's part of ``count`` further rows."""
        return self.rank * count // self.ranks, (self.rank + 1) * count // self.ranks

    @staticmethod
    def add(tensor: Tensor) -> None:
        """Sum a tensor over the processes, in place."""
        if tensor.is_contiguous():
            dist.all_reduce(tensor)
        else:
            whole = tensor.contiguous()
            dist.all_reduce(whole)
            tensor.copy_(whole)


def share_of(count: int) -> Share | None:
    """Return this process's share of a joint batch of ``count`` rows; None for a single process."""
    ranks = world_size()
    if ranks == 1:
        return None
    rank, rows = dist.get_rank(), count // ranks
    return Share(rank, ranks, (rank * rows, (rank + 1) * rows))


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
