"""Restoring large images by overlapped tiles, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from torch import Tensor

from d2sm_plugin.errors import OptionError, ShapeError


class Span(NamedTuple):
    """One tile along one axis, in pixels of the whole image; ends are exclusive."""

    start: int  #: first pixel the network sees
    stop: int  #: end of what the network sees
    keep_start: int  #: first pixel of the result that is kept
    keep_stop: int  #: end of what is kept


def tile_spans(size: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cut one axis into tiles.

    The kept parts join without gap or overlap; each lies at least ``overlap`` pixels away from every end of its tile
    that is not an end of the image. The first tile starts at 0 and the last ends at ``size``, so a network pads
    there what it would pad on the whole image.

    Args:
        size: length of the axis.
        tile: length of a tile, context included.
        overlap: context on each inner side.
        multiple: every tile starts at a multiple of this number. ``tile`` and ``overlap`` are rounded up to it.

    Raises:
        OptionError: when nothing would be kept of a tile, or a value is out of range.
    """
    if tile < 1 or overlap < 0 or multiple < 1:
        raise OptionError(
            f"tile {tile}, overlap {overlap}, multiple {multiple}: expected a tile of at least 1 pixel, an overlap of "
            f"at least 0 and a multiple of at least 1"
        )
    tile, overlap = _round_up(tile, multiple), _round_up(overlap, multiple)
    if size <= tile:
        return [Span(0, size, 0, size)]
    if tile <= 2 * overlap:
        raise OptionError(
            f"tile {tile} is not larger than twice the overlap {overlap} (both rounded up to multiples of {multiple}); "
            f"nothing of a tile would be kept: give a tile of at least {2 * overlap + multiple}, or a smaller overlap"
        )
    spans: list[Span] = []
    kept = 0
    while kept < size:
        start = max(0, kept - overlap)
        if start + tile >= size:  # the last one: as long as the others, so that it has all the context it can
            start = min(start, _round_up(size - tile, multiple))
            spans.append(Span(start, size, kept, size))
        else:
            spans.append(Span(start, start + tile, kept, start + tile - overlap))
        kept = spans[-1].keep_stop
    return spans


def tiled_forward(
    forward: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tile: int | None,
    overlap: int,
    multiple: int = 16,
) -> Tensor:
    """Run ``forward(*inputs)`` tile by tile.

    Neighbouring tiles overlap; of each result the ``overlap`` pixels next to an inner border are thrown away, not
    blended. Where ``overlap`` is at least the distance over which an input pixel can reach an output pixel (the radius
    of the receptive field) and ``multiple`` is a multiple of the network's stride, the result equals that on the whole
    image, up to rounding. With less overlap, or a network whose reach has no bound (global pooling, attention over the
    image, deformable convolution with large offsets), it is an approximation near the seams.

    Memory: the network sees ``tile`` x ``tile`` pixels at a time, rounded up to ``multiple``; only the result has the
    size of the image. It lives where ``forward`` puts its results.

    Args:
        forward: returns restored images (B, C, s*H, s*W) for an integer scale s, which is found from the first tile.
        inputs: the first is the image (B, C, H, W). Of the others, those with the size (H, W) are cut alike, those
            of shape (B, ., 1, 1) pass whole.
        tile: side of a tile in pixels, context included; None runs the whole image at once.
        overlap: context on each inner side of a tile, in pixels.
        multiple: tiles start at multiples of this number; 16 suits every network whose stride divides 16.

    Returns:
        (B, C, s*H, s*W).

    Raises:
        OptionError: for a tile that is not larger than twice the overlap.
        ShapeError: for an input of another size, or results whose size is no multiple of the tile's.
    """
    height, width = inputs[0].shape[-2:]
    _check_inputs(inputs)
    if tile is None or (height <= tile and width <= tile):
        return forward(*inputs)
    rows = tile_spans(height, tile, overlap, multiple)
    columns = tile_spans(width, tile, overlap, multiple)
    result: Tensor | None = None
    for row, column, restored in _restored_tiles(forward, inputs, rows, columns):
        scale = _scale(restored, row, column)
        if result is None:
            result = restored.new_empty(*restored.shape[:2], scale * height, scale * width)
        inner = restored[..., _inside(row, scale), _inside(column, scale)]
        kept_rows = slice(scale * row.keep_start, scale * row.keep_stop)
        result[..., kept_rows, scale * column.keep_start : scale * column.keep_stop] = inner
    assert result is not None  # an image has one tile at least
    return result


def _restored_tiles(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor], rows: Sequence[Span], columns: Sequence[Span]
) -> Iterator[tuple[Span, Span, Tensor]]:
    size = inputs[0].shape[-2:]
    for row, column in product(rows, columns):
        cut = [
            entry[..., row.start : row.stop, column.start : column.stop] if entry.shape[-2:] == size else entry
            for entry in inputs
        ]
        yield row, column, forward(*cut)


def _check_inputs(inputs: Sequence[Tensor]) -> None:
    size = inputs[0].shape[-2:]
    for index, entry in enumerate(inputs):
        if entry.ndim != 4 or entry.shape[-2:] not in (size, (1, 1)):
            raise ShapeError(
                f"input {index} of the network has shape {tuple(entry.shape)}; tiles need (B, C, {size[0]}, {size[1]}) "
                f"like the image, or (B, C, 1, 1)"
            )


def _scale(restored: Tensor, row: Span, column: Span) -> int:
    seen = (row.stop - row.start, column.stop - column.start)
    scale = restored.shape[-2] // seen[0]
    if scale < 1 or tuple(restored.shape[-2:]) != (scale * seen[0], scale * seen[1]):
        raise ShapeError(
            f"the network made {tuple(restored.shape[-2:])} of a tile of {seen}; tiles need a whole-number scale: run "
            f"it without tiles"
        )
    return scale


def _inside(span: Span, scale: int) -> slice:
    return slice(scale * (span.keep_start - span.start), scale * (span.keep_stop - span.start))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
