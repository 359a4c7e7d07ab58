"""Maps of many windows of an image, as an extractor's early layers give them, with the work they share done once.

A window that is cut out of an image is padded with zeros at its border by every convolution. Inside, further from the
border than the layers reach, its map is a part of the image's map. So the image is mapped once, and what is left are
strips along the borders: windows that begin at one row share the strip along their top, and so on, and only the corners
belong to a single window. Put together, these are the maps of the cut windows to the last digits.

Along one axis a window's map has three bands::

    image's map   ...................................................
    window             |<------------- cells ------------->|
    bands              | first |        inside         | last |
    cut from           | strip |    the image's map    | strip|
    strip of pixels    |----------|                 |---------|
                          ^ reach.after          reach.before ^

A cell sees ``reach.before`` pixels before its own first one and up to ``reach.after`` behind it. So the cells of the
first and the last band see beyond the window, where zeros have to be, and come from a strip that is mapped for itself;
it is broad enough for the cells that are kept of it.

The early layers may come in steps. Then the strips of a step are put together out of the pieces of the step before it,
and have only to be as broad as this one step reaches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from d2sm_plugin.losses.windows.window_pieces import Gather, PieceLayout, Place
from d2sm_plugin.losses.windows.window_reach import Reach, Step

Windows = Sequence[tuple[int, int]]


class _Band(NamedTuple):
    """Cells ``first`` ... ``stop - 1`` of a window's map along an axis, and the cells before the step they come from.

    Those are a strip of each window, which begins at the window's cell ``offset``, or (None) the image's.
    """

    first: int
    stop: int
    offset: int
    strip: int | None


class _Level(NamedTuple):
    """Maps behind a step: their stride in pixels, a window's cells, and the bands that these are divided into."""

    stride: int
    step: int
    cells: int
    bands: tuple[_Band, _Band, _Band]


class SharedWindows:
    """Maps of windows as ``early(window)`` would make them.

    Args:
        steps: of the early part, from images (B, 3, H, W) on.
        size: of the windows in pixels, a multiple of all strides together, as are their corners.
        reaches: what a cell behind each step sees; None leaves the borders as they are in the image's map.
    """

    def __init__(self, steps: Sequence[Step], size: int, reaches: Sequence[Reach] | None) -> None:
        self.steps, self.size = steps, size
        self.levels = _levels(steps, size, reaches)

    def __call__(self, images: Tensor, windows: Windows) -> Tensor:
        """Maps (B * P, C, h, w) of the P windows with these corners in images (B, 3, H, W), image by image."""
        stop_row, stop_column = (max(starts) + self.size for starts in zip(*windows, strict=True))
        images = images[..., :stop_row, :stop_column]  # whole cells, so that strided layers stay in step
        pieces = [images]
        *stages, last = _plan(tuple(self.levels), tuple(windows))
        for stage, step in zip(stages, self.steps, strict=True):
            inputs = Gather.apply(stage.layouts, len(images), *pieces) if stage.layouts else ()
            pieces = [step.run(maps) for maps in ([pieces[-1]] if stage.whole else []) + list(inputs)]
            pieces = pieces[1:] + pieces[:1] if stage.whole else pieces
        return Gather.apply(last.layouts, len(images), *pieces)[0]


class _Stage(NamedTuple):
    """Input of a step: strips and corners that layouts put together, and whether also the map of the whole image.

    That one is the last of the pieces.
    """

    layouts: list[PieceLayout]
    whole: bool


@lru_cache(maxsize=16)
def _plan(levels: tuple[_Level, ...], windows: tuple[tuple[int, int], ...]) -> list[_Stage]:
    """Stages of the plan: the input of each step, and, at the end, the layout of the windows."""
    layout, stages = _Layout(levels[0], windows), []
    for level in levels[1:]:
        behind = _Layout(level, windows)
        layouts = [behind.strips(shape, layout) for shape in behind.shapes if shape != _WHOLE]
        stages.append(_Stage(layouts, _WHOLE in behind.shapes))
        layout = behind
    return [*stages, _Stage([layout.windows()], False)]


def _levels(steps: Sequence[Step], size: int, reaches: Sequence[Reach] | None) -> list[_Level]:
    """Levels before, between and behind the steps."""
    levels = [_Level(1, 1, size, _bands(0, size, 0, size, 0))]
    for index, step in enumerate(steps):
        levels.append(_next_level(levels[-1], step.stride, Reach(0, 0) if reaches is None else reaches[index]))
    return levels


def _next_level(level: _Level, step: int, reach: Reach) -> _Level:
    """Behind a step, more cells along a window's border see it or what the borders have changed before."""
    cells, (before_first, _, before_last) = level.cells // step, level.bands
    first = math.ceil((before_first.stop + reach.before) / step)
    last = (reach.after + before_last.stop - before_last.first) // step
    # Both strips are as broad as the broader one has to be, so that they can be one batch.
    strip = max(_round_up((first - 1) * step + reach.after + 1, step), _round_up(last * step + reach.before, step))
    if first + last >= cells:  # every cell sees a border: nothing can be shared
        first, last, strip = cells, 0, level.cells
    bands = _bands(first, cells, last, level.cells, min(strip, level.cells))
    return _Level(level.stride * step, step, cells, bands)


def _bands(first: int, cells: int, last: int, before: int, strip: int) -> tuple[_Band, _Band, _Band]:
    return (
        _Band(0, first, 0, strip),
        _Band(first, cells - last, 0, None),
        _Band(cells - last, cells, before - strip, strip),
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class _Span(NamedTuple):
    """Cells of a window or of an image, and the piece's cells that they are."""

    band: _Band
    place: int
    cells: int
    start: int


Shape = tuple[int | None, int | None]
_WHOLE: Shape = (None, None)


class _Layout:
    """Pieces behind a step, and the places in them of each window's cells.

    Pieces of one shape are one batch: (parts * B, C, h, w), part by part.
    """

    def __init__(self, level: _Level, windows: Windows) -> None:
        self.level, self.corners = level, windows
        self.parts: dict[tuple[_Band, _Band, int, int], int] = {}
        self.shapes: dict[Shape, list[tuple[_Band, _Band, int, int]]] = {}
        used = [band for band in level.bands if band.first < band.stop]
        for rows in used:
            for columns in used:
                parts = self.shapes.setdefault((rows.strip, columns.strip), [])
                for row, column in windows:
                    part = self._part(rows, columns, row, column)
                    if part not in self.parts:
                        self.parts[part] = len(parts)
                        parts.append(part)

    @staticmethod
    def _part(rows: _Band, columns: _Band, row: int, column: int) -> tuple[_Band, _Band, int, int]:
        return rows, columns, 0 if rows.strip is None else row, 0 if columns.strip is None else column

    def strips(self, shape: Shape, before: _Layout) -> PieceLayout:
        """Layout of the strips or corners of a shape, out of the pieces before the step."""
        places = []
        for number, (rows, columns, row, column) in enumerate(self.shapes[shape]):
            places += before.places(number, (row, column), (rows.offset, columns.offset), (rows.strip, columns.strip))
        return PieceLayout(places, len(self.shapes[shape]), shape, image_first=False)

    def windows(self) -> PieceLayout:
        """Layout of the windows."""
        sides, places = (self.level.cells, self.level.cells), []
        for number, corner in enumerate(self.corners):
            places += self.places(number, corner, (0, 0), sides)
        return PieceLayout(places, len(self.corners), sides, image_first=True)

    def places(
        self, number: int, corner: tuple[int, int], first: tuple[int, int], count: tuple[int | None, int | None]
    ) -> list[Place]:
        """Blocks of part ``number``: cells ``first`` ... of the window with this corner, and how many; None is all."""
        shapes = sorted(self.shapes, key=lambda shape: shape == _WHOLE)
        places = []
        for rows in self._spans(corner[0], first[0], count[0]):
            for columns in self._spans(corner[1], first[1], count[1]):
                shape = rows.band.strip, columns.band.strip
                part = self.parts[self._part(rows.band, columns.band, *corner)]
                block = rows.place, columns.place, rows.cells, columns.cells
                places.append(Place(number, *block, shapes.index(shape), part, rows.start, columns.start))
        return places

    def _spans(self, corner: int, first: int, count: int | None) -> list[_Span]:
        """Spans of cells along an axis."""
        of_image = corner // self.level.stride
        if count is None:
            return [_Span(self.level.bands[1], 0, -1, 0)]
        spans = []
        for band in self.level.bands:
            begin, stop = max(band.first, first), min(band.stop, first + count)
            if begin < stop:
                start = of_image if band.strip is None else -band.offset // self.level.step
                spans.append(_Span(band, begin - first, stop - begin, start + begin))
        return spans
