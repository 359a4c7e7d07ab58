"""Maps put together out of blocks of others, with one gradient for each of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class PieceLayout(NamedTuple):
    """``number`` maps of a shape that are put together, for each of B images; a side of None is as long as the images'.

    Their order is image by image, or map by map.
    """

    places: list[Place]
    number: int
    shape: tuple[int | None, int | None]
    image_first: bool


class Gather(torch.autograd.Function):
    """The maps of each layout. Slicing would make a gradient of the size of its piece for every block.

    Call ``Gather.apply(layouts, B, *pieces)`` with pieces (parts * B, C, h, w), part by part.
    """

    @staticmethod
    def forward(ctx: Any, layouts: list[PieceLayout], batch: int, *pieces: Tensor) -> tuple[Tensor, ...]:
        """Maps (number * B, C, h, w) of each layout."""
        ctx.layouts, ctx.batch, ctx.shapes = layouts, batch, [piece.shape for piece in pieces]
        ctx.memory = torch.channels_last if _is_channels_last(pieces[0]) else torch.contiguous_format
        options = {"dtype": pieces[0].dtype, "device": pieces[0].device, "memory_format": ctx.memory}
        results = []
        for layout in layouts:
            height, width = _sides(layout, pieces)
            results.append(torch.empty((layout.number * batch, pieces[0].shape[1], height, width), **options))
            for block, source in _views(layout, batch, results[-1], pieces):
                block.copy_(source)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the pieces."""
        options = {"dtype": gradients[0].dtype, "device": gradients[0].device, "memory_format": ctx.memory}
        of_pieces = [torch.empty(shape, **options).zero_() for shape in ctx.shapes]
        for layout, gradient in zip(ctx.layouts, gradients, strict=True):
            for block, source in _views(layout, ctx.batch, gradient, of_pieces):
                source.add_(block)
        return None, None, *of_pieces


def _is_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()


def _sides(layout: PieceLayout, pieces: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of a layout's maps."""
    height, width = pieces[layout.places[0].piece].shape[-2:]
    fixed_height, fixed_width = layout.shape
    return height if fixed_height is None else fixed_height, width if fixed_width is None else fixed_width


def _views(layout: PieceLayout, batch: int, maps: Tensor, pieces: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views (B, C, h, w) of the blocks of a layout's maps, and of where they are in their pieces."""
    if layout.image_first:
        maps = maps.unflatten(0, (batch, layout.number)).transpose(0, 1)
    else:
        maps = maps.unflatten(0, (layout.number, batch))
    pieces = [piece.unflatten(0, (-1, batch)) for piece in pieces]
    for place in layout.places:
        block = _block(maps[place.target], place.row, place.column, place)
        yield block, _block(pieces[place.piece][place.part], place.piece_row, place.piece_column, place)


def _block(maps: Tensor, row: int, column: int, place: Place) -> Tensor:
    height = maps.shape[-2] if place.height < 0 else place.height
    width = maps.shape[-1] if place.width < 0 else place.width
    return maps[..., row : row + height, column : column + width]
