"""Put maps together out of blocks of others, with one gradient for each of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Place(NamedTuple):
    """A block of a map, and the piece (and place in it) that it comes from; in cells. A size of -1 is all."""

    target: int
    row: int
    column: int
    height: int
    width: int
    piece: int
    part: int
    piece_row: int
    piece_column: int


class _Spot(NamedTuple):
    """Which part, and the cell where a block begins in it."""

    part: int
    row: int
    column: int


Pairs = Sequence[tuple[_Spot, _Spot]]  # targets and sources


class Block(NamedTuple):
    """Blocks of one size in rows and columns of maps: where the first one is, and how far it is to the next ones."""

    size: tuple[int, int]
    counts: tuple[int, int]
    target: tuple[_Spot, _Spot, _Spot]
    piece: int
    source: tuple[_Spot, _Spot, _Spot]


class PieceLayout(NamedTuple):
    """``count`` maps of a shape that are put together, for each of B images; a side of None is as long as the images'.

    Their order is image by image, or map by map.
    """

    blocks: list[Block]
    count: int
    shape: tuple[int | None, int | None]
    image_first: bool


def merged(places: Sequence[Place]) -> list[Block]:
    """Places as blocks: one for all that lie at equal distances, as what the windows of an image have in common does.

    So there are a few dozen of them instead of hundreds.
    """
    alike: dict[tuple[int, ...], list[tuple[_Spot, _Spot]]] = {}
    for p in places:
        pair = _Spot(p.target, p.row, p.column), _Spot(p.part, p.piece_row, p.piece_column)
        alike.setdefault((p.piece, p.height, p.width, p.row, p.column), []).append(pair)
    return [
        _block(tuple(size), piece, group)
        for (piece, *size, _, _), pairs in alike.items()
        for group in _groups(pairs, *size)
    ]


def _groups(pairs: Pairs, height: int, width: int) -> list[Pairs]:
    """All pairs, or else each row, or column, or pair of them: at equal distances, and sources that do not overlap."""
    columns = _run_length(pairs)
    if _is_grid(pairs, columns):
        rows = [pairs[first : first + columns] for first in range(0, len(pairs), columns)]
        for groups in ([pairs], rows, [pairs[first::columns] for first in range(columns)]):
            if all(_are_apart([source for _, source in group], height, width) for group in groups):
                return groups
    return [[pair] for pair in pairs]


def _block(size: tuple[int, int], piece: int, pairs: Pairs) -> Block:
    columns = _run_length(pairs)
    corners = pairs[0], pairs[columns % len(pairs)], pairs[1 % len(pairs)]
    target, source = (
        (spots[0], *(_minus(spot, spots[0]) for spot in spots[1:])) for spots in zip(*corners, strict=True)
    )
    return Block(size, (len(pairs) // columns, columns), target, piece, source)


def _minus(left: _Spot, right: _Spot) -> _Spot:
    return _Spot(*(a - b for a, b in zip(left, right, strict=True)))


def _run_length(pairs: Pairs) -> int:
    """How many of the pairs, from the first one on, lie at one distance."""
    steps = [[_minus(b, a) for a, b in zip(*two, strict=True)] for two in pairwise(pairs)]
    return next((index + 1 for index, step in enumerate(steps) if step != steps[0]), len(pairs))


def _is_grid(pairs: Pairs, columns: int) -> bool:
    """Whether the pairs lie in rows of so many, at distances that stay the same and lead forward."""
    if len(pairs) % columns:
        return False
    for axis in (0, 1):
        spots = [pair[axis] for pair in pairs]
        across, down = _minus(spots[1 % len(spots)], spots[0]), _minus(spots[columns % len(spots)], spots[0])
        if min(*across, *down) < 0:
            return False
        for index, spot in enumerate(spots):
            row, column = divmod(index, columns)
            if _minus(spot, spots[0]) != tuple(row * d + column * a for d, a in zip(down, across, strict=True)):
                return False
    return True


def _are_apart(spots: Sequence[_Spot], height: int, width: int) -> bool:
    """Whether blocks of this size do not overlap, so that a sum into all of them at a time is defined."""
    return not any(
        one.part == other.part
        and abs(one.row - other.row) < abs(height)
        and abs(one.column - other.column) < abs(width)
        for index, one in enumerate(spots)
        for other in spots[:index]
    )


class Gather(torch.autograd.Function):
    """The maps of each job. Slicing would make a gradient of the size of its piece for every block.

    Call ``Gather.apply(jobs, B, *pieces)`` with pieces (parts * B, C, h, w), part by part.
    """

    @staticmethod
    def forward(ctx: Any, jobs: list[PieceLayout], batch: int, *pieces: Tensor) -> tuple[Tensor, ...]:
        """Maps (count * B, C, h, w) of each job."""
        ctx.jobs, ctx.batch, ctx.shapes = jobs, batch, [piece.shape for piece in pieces]
        ctx.layout = torch.channels_last if _is_channels_last(pieces[0]) else torch.contiguous_format
        options = {"dtype": pieces[0].dtype, "device": pieces[0].device, "memory_format": ctx.layout}
        results = []
        for job in jobs:
            height, width = _sides(job, pieces)
            results.append(torch.empty((job.count * batch, pieces[0].shape[1], height, width), **options))
            for block, source in _views(job, batch, results[-1], pieces):
                block.copy_(source)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the pieces."""
        options = {"dtype": gradients[0].dtype, "device": gradients[0].device, "memory_format": ctx.layout}
        found = [torch.empty(shape, **options).zero_() for shape in ctx.shapes]
        for job, gradient in zip(ctx.jobs, gradients, strict=True):
            for block, source in _views(job, ctx.batch, gradient, found):
                source.add_(block)
        return None, None, *found


def _is_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()


def _sides(job: PieceLayout, pieces: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of a job's maps."""
    height, width = pieces[job.blocks[0].piece].shape[-2:]
    return height if job.shape[0] is None else job.shape[0], width if job.shape[1] is None else job.shape[1]


def _views(job: PieceLayout, batch: int, maps: Tensor, pieces: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views (rows, columns, B, C, h, w) of the blocks of a job's maps, and of where they are in their pieces."""
    if job.image_first:
        maps = maps.unflatten(0, (batch, job.count)).transpose(0, 1)
    else:
        maps = maps.unflatten(0, (job.count, batch))
    pieces = [piece.unflatten(0, (-1, batch)) for piece in pieces]
    for block in job.blocks:
        yield _view(maps, block, block.target), _view(pieces[block.piece], block, block.source)


def _view(maps: Tensor, block: Block, spots: tuple[_Spot, _Spot, _Spot]) -> Tensor:
    strides = maps.stride()
    steps = [spot.part * strides[0] + spot.row * strides[3] + spot.column * strides[4] for spot in spots]
    size = [whole if side < 0 else side for side, whole in zip(block.size, maps.shape[3:], strict=True)]
    shape = *block.counts, *maps.shape[1:3], *size
    return maps.as_strided(shape, (*steps[1:], *strides[1:]), maps.storage_offset() + steps[0])
