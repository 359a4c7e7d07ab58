"""Maps of many windows of an image, as an extractor's early layers give them, with the work they share done once.

A window that is cut out of an image is padded with zeros at its border by every convolution. Inside, further from the
border than the layers reach, its map is a part of the image's map. So the image is mapped once, and what is left are
strips along the borders: windows that begin at one row share the strip along their top, and so on, and only the corners
belong to a single window. Put together, these are the maps of the cut windows to the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2sm_plugin.errors import OptionError

Early = Callable[[Tensor], Tensor]


class Reach(NamedTuple):
    """What a cell of a map sees: pixels ``before`` its own first one, and the last one ``after`` it."""

    before: int
    after: int


class _Place(NamedTuple):
    """A block of a window's map, and the piece (and place in it) that it comes from; in cells."""

    window: int
    row: int
    column: int
    height: int
    width: int
    piece: int
    part: int
    piece_row: int
    piece_column: int


_REACHES: WeakKeyDictionary[nn.Module, dict[int, Reach]] = WeakKeyDictionary()


def reach_of(extractor: nn.Module, early: Early, stride: int, example: Tensor) -> Reach:
    """Return :func:`measure_reach` of an extractor's early part, measured once."""
    known = _REACHES.setdefault(extractor, {})
    if stride not in known:
        known[stride] = measure_reach(early, stride, example)
    return known[stride]


def measure_reach(early: Early, stride: int, example: Tensor) -> Reach:
    """Find out which pixels a cell of the map depends on, by one gradient.

    Args:
        early: images (B, 3, H, W) to maps (B, C, H / stride, W / stride).
        stride: of the map.
        example: images of the device and dtype that ``early`` takes.

    Raises:
        OptionError: when a cell sees as far as the image goes, as in networks with global pooling in their early part.
    """
    cells = 24
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, cells * stride, cells * stride, generator=generator)
    with torch.enable_grad(), torch.autocast(example.device.type, enabled=False):
        image = image.to(example.device, example.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(early(image)[:, :, cells // 2, cells // 2].sum(), image)
    seen = gradient.abs().sum((0, 1))
    own = cells // 2 * stride
    spans = [(torch.nonzero(seen.sum(axis)).flatten() - own).tolist() for axis in (1, 0)]
    before = max(0, -min(span[0] for span in spans))
    after = max(span[-1] for span in spans)
    if before >= own or after >= own - 1:
        raise OptionError(
            f"PatchSampler.shared_stride: up to stride {stride} the extractor looks further than {own} pixels, so its "
            f"windows have too little in common; choose a smaller shared_stride, border 'open', or mode 'crop'"
        )
    return Reach(before, after)


class SharedWindows:
    """Cuts windows as ``early(window)`` would map them.

    Args:
        early: images (B, 3, H, W) to maps (B, C, H / stride, W / stride).
        stride: of the map.
        size: of the windows in pixels, a multiple of ``stride``, as are their corners.
        reach: what a cell of the map sees; None leaves the borders as they are in the image's map.
    """

    def __init__(self, early: Early, stride: int, size: int, reach: Reach | None) -> None:
        self.early, self.stride, self.size, self.cells = early, stride, size, size // stride
        # Cells along the first and the last border of a window that see beyond it, and the pixels that they see.
        self.first = self.last = self.first_strip = self.last_strip = 0
        if reach is not None:
            self.first, self.last = math.ceil(reach.before / stride), reach.after // stride
            self.first_strip = min(size, _round_up((self.first - 1) * stride + reach.after + 1, stride))
            self.last_strip = min(size, _round_up(self.last * stride + reach.before, stride))
            if self.first + self.last >= self.cells:  # every cell sees a border: nothing can be shared
                self.first, self.last, self.first_strip, self.last_strip = self.cells, 0, size, 0

    def __call__(self, images: Tensor, windows: Sequence[tuple[int, int]]) -> Tensor:
        """Maps (B * P, C, h, w) of the P windows with these corners in images (B, 3, H, W), image by image."""
        stop_row, stop_column = (max(starts) + self.size for starts in zip(*windows, strict=True))
        images = images[..., :stop_row, :stop_column]  # whole cells, so that strided layers stay in step
        bands = self._bands()
        pieces, places = [], []
        for rows in bands:
            for columns in bands:
                if rows.count and columns.count:
                    places += self._places(len(pieces), rows, columns, windows)
                    pieces.append(self._map(rows, columns, images, windows))
        return _Assemble.apply(places, (len(images), len(windows), self.cells), *pieces)

    def _bands(self) -> tuple[_Band, _Band, _Band]:
        """How the cells of a window are divided along an axis: first border, inside, last border."""
        inside = self.cells - self.first - self.last
        return (
            _Band(0, self.first, 0, self.first_strip),
            _Band(self.first, inside, 0, None),
            _Band(self.cells - self.last, self.last, self.size - self.last_strip, self.last_strip),
        )

    def _map(self, rows: _Band, columns: _Band, images: Tensor, windows: Sequence[tuple[int, int]]) -> Tensor:
        """Map of what the windows need in this band of rows and columns: the image, strips or corners."""
        parts = []
        for row, column in _distinct(rows, columns, windows):
            vertical = slice(None) if rows.strip is None else slice(row + rows.offset, row + rows.offset + rows.strip)
            start = column + columns.offset
            horizontal = slice(None) if columns.strip is None else slice(start, start + columns.strip)
            parts.append(images[..., vertical, horizontal])
        return self.early(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _places(self, piece: int, rows: _Band, columns: _Band, windows: Sequence[tuple[int, int]]) -> list[_Place]:
        order = {corner: index for index, corner in enumerate(_distinct(rows, columns, windows))}
        places = []
        for window, (row, column) in enumerate(windows):
            part = order[0 if rows.strip is None else row, 0 if columns.strip is None else column]
            block = (rows.first, columns.first, rows.count, columns.count)
            places.append(_Place(window, *block, piece, part, self._start(rows, row), self._start(columns, column)))
        return places

    def _start(self, band: _Band, corner: int) -> int:
        """First cell of a band within its piece."""
        whole = corner // self.stride if band.strip is None else -band.offset // self.stride
        return whole + band.first


class _Band(NamedTuple):
    """Cells ``first`` ... ``first + count - 1`` of a window, from a strip of pixels, or (None) from all of them."""

    first: int
    count: int
    offset: int  # of the strip within the window, in pixels
    strip: int | None


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _distinct(rows: _Band, columns: _Band, windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Corners that differ in what a band depends on, in order; what it does not depend on is 0."""
    return list(
        dict.fromkeys(
            (0 if rows.strip is None else row, 0 if columns.strip is None else column) for row, column in windows
        )
    )


class _Assemble(torch.autograd.Function):
    """Windows out of blocks of pieces. Slicing would make a gradient of the size of its piece for every block."""

    @staticmethod
    def forward(ctx: Any, places: list[_Place], sizes: tuple[int, int, int], *pieces: Tensor) -> Tensor:
        batch, count, cells = sizes
        ctx.places, ctx.sizes, ctx.shapes = places, sizes, [piece.shape for piece in pieces]
        ctx.layout = torch.channels_last if _is_channels_last(pieces[0]) else torch.contiguous_format
        shape = (batch * count, pieces[0].shape[1], cells, cells)
        windows = torch.empty(shape, dtype=pieces[0].dtype, device=pieces[0].device, memory_format=ctx.layout)
        for block, source in _blocks(places, sizes, windows, pieces):
            block.copy_(source)
        return windows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        options = {"dtype": gradient.dtype, "device": gradient.device}
        found = [torch.empty(shape, memory_format=ctx.layout, **options).zero_() for shape in ctx.shapes]
        for block, source in _blocks(ctx.places, ctx.sizes, gradient, found):
            source.add_(block)
        return None, None, *found


def _is_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()


def _blocks(
    places: Sequence[_Place], sizes: tuple[int, int, int], windows: Tensor, pieces: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views (B, C, h, w) of each block in the windows, and of where it is in its piece."""
    batch, count, _ = sizes
    windows = windows.unflatten(0, (batch, count))
    pieces = [piece.unflatten(0, (-1, batch)) for piece in pieces]  # the parts of a piece lie one behind the other
    for p in places:
        rows, columns = slice(p.row, p.row + p.height), slice(p.column, p.column + p.width)
        piece_rows = slice(p.piece_row, p.piece_row + p.height)
        piece_columns = slice(p.piece_column, p.piece_column + p.width)
        yield windows[:, p.window, :, rows, columns], pieces[p.piece][p.part, :, :, piece_rows, piece_columns]
