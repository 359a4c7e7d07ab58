"""The page of a suite: its tables, differences with intervals, plots, pictures, and the images where variants fail."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from d2sm_plugin.files import reading_again
from d2sm_plugin.studies.compare.image_table import IMAGES
from d2sm_plugin.studies.compare.tables import DIGITS, shown, title
from d2sm_plugin.studies.report.charts import interval_chart
from d2sm_plugin.studies.report.page import Cell, Page, Section, Table, Tile
from d2sm_plugin.studies.report.pictures import Album

TABLE = "table.md"
_MEANS, _INTERVALS = "table_mean.csv", "intervals.csv"
_PLOTS = (("convergence.png", "Validation while training"), ("psnr_miou.png", "PSNR and MIoU of the variants"))
_COUNTS = ("seeds", "frames", "blocks")
_WORST = 5  # images of each variant and metric
Row = Mapping[str, str]


def suite_page(folder: Path, most_bytes: int, count: int) -> Page:
    """Return the page of a suite.

    Args:
        folder: of its report, ``OUT/SUITE``.
        most_bytes: of its pictures, plots not counted.
        count: pictures at most.

    Raises:
        DataError: when a file in the folder is damaged.
    """
    with reading_again(folder / TABLE, "write the report again with d2sm compare ... --report-only"):
        heading, paragraphs, tables = _markdown((folder / TABLE).read_text(encoding="utf-8"))
    intervals = _rows(
        folder / _INTERVALS, ("variant", "set", "sigma", "metric"), ("difference", "low", "high", *_COUNTS)
    )
    means = _rows(folder / _MEANS, ("variant",), ("rank", "difference"))
    baselines = {row["variant"]: row["baseline"] for row in means if row.get("baseline")}
    captions = {table.caption for table in tables}
    sections = [
        Section("results", "Results", [text for text in paragraphs[1:] if text not in captions], tables),
        _differences(intervals, baselines),
        _pictures(folder, most_bytes, count),
        _plots(folder),
        _failures(
            _rows(folder / IMAGES, ("variant", "set", "image", "metric", "better"), ("mean", "difference")), baselines
        ),
    ]
    return Page(heading, "Comparison", paragraphs[0] if paragraphs else "", _tiles(intervals, baselines), sections)


def _markdown(text: str) -> tuple[str, list[str], list[Table]]:
    """Return heading, paragraphs and tables of ``table.md``; the paragraph before a table is its caption too."""
    heading = ""
    paragraphs: list[str] = []
    tables: list[Table] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("# "):
            heading = block[2:]
        elif block.startswith("|"):
            first, _, *lines = block.splitlines()
            headers = _cells(first, 0)
            rows = [[_cell(cell) for cell in _cells(line, len(headers))] for line in lines]
            tables.append(Table(paragraphs[-1] if paragraphs else "", headers, rows))
        else:
            paragraphs.append(block)
    return heading, paragraphs, tables


def _cells(line: str, count: int) -> list[str]:
    """Return the cells of a line; a name with a bar in it is the first of them."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    surplus = len(cells) - count if count else 0
    return ["|".join(cells[: surplus + 1]), *cells[surplus + 1 :]] if surplus > 0 else cells


def _cell(text: str) -> Cell:
    strong = re.fullmatch(r"\*\*(.*)\*\*(.*)", text)
    return Cell(strong[1] + strong[2], True) if strong else Cell(text)


def _rows(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV file, in which some columns hold numbers or nothing; none where there is no file."""
    if not path.is_file():
        return []
    with reading_again(path, "remove it, and write the report again"), path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("lines differ in their number of values")
            for name in numbers:
                int(row[name]) if name in _COUNTS else float(row[name] or 0)
            if absent := set(texts) - set(row):
                raise ValueError(f"no column {', '.join(sorted(absent))}")
        return rows


def _known(intervals: Sequence[Row]) -> Iterator[tuple[Row, float, float, float]]:
    for row in intervals:
        if row["low"] and row["high"]:
            yield row, float(row["difference"]), float(row["low"]), float(row["high"])


def _place(row: Row) -> str:
    return f"{title(row['metric'])}, " + (f"σ = {row['sigma']}" if row["sigma"] else row["set"])


def _less(variant: str, baselines: Mapping[str, str]) -> str:
    return f"less {baselines.get(variant, 'the baseline')}"


def _digits(metric: str, low: float, high: float) -> int:
    """Return the digits behind the point that an interval is worth; small ones, as of divergences, need more."""
    return DIGITS.get(metric, 2 if max(abs(low), abs(high)) >= 0.1 else 5)


def _tiles(intervals: Sequence[Row], baselines: Mapping[str, str]) -> list[Tile]:
    """Return the differences of a suite with one variant beside the baseline; more would not be seen at a glance."""
    if len({row["variant"] for row in intervals}) != 1:
        return []
    tiles = []
    for row, value, low, high in _known(intervals):
        digits = _digits(row["metric"], low, high)
        verdict = "the interval holds 0" if low <= 0 <= high else "the interval is clear of 0"
        detail = f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}: {verdict}"
        name = f"{row['variant']} {_less(row['variant'], baselines)}"
        tiles.append(Tile(f"{_place(row)}: {name}", f"{value:+.{digits}f}", detail))
    return tiles


def _differences(intervals: Sequence[Row], baselines: Mapping[str, str]) -> Section:
    """Return the differences with their intervals; where variants have baselines of their own, each names it."""
    shared = set(baselines.values())
    section = Section("differences", f"Differences from {next(iter(shared)) if len(shared) == 1 else 'the baseline'}")
    panels: dict[str, list[tuple[str, float, float, float]]] = {}
    digits: dict[str, int] = {}
    for row, value, low, high in _known(intervals):
        name = row["variant"] if len(shared) == 1 else f"{row['variant']} {_less(row['variant'], baselines)}"
        panels.setdefault(_place(row), []).append((name, value, low, high))
        digits[_place(row)] = max(_digits(row["metric"], low, high), digits.get(_place(row), 0))
    section.intervals = [interval_chart(place, rows, digits[place]) for place, rows in panels.items()]
    if section.intervals:
        seeds, frames, blocks = (" or ".join(sorted({row[key] for row in intervals}, key=int)) for key in _COUNTS)
        section.paragraphs.append(
            f"95 % intervals over seeds and scenes: {seeds} seeds, {frames} frames in {blocks} blocks. Where an "
            f"interval holds 0, the difference is not told from none."
        )
    return section


def _pictures(folder: Path, most_bytes: int, count: int) -> Section:
    section, album = Section("pictures", "Pictures"), Album(most_bytes)
    grids = sorted(folder.glob("grid_*.png"))
    for path in grids[:count]:
        comparison = album.comparison(path, path.stem.removeprefix("grid_"))
        section.comparisons += [] if comparison is None else [comparison]
    if any(len(comparison.images) > 1 for comparison in section.comparisons):
        section.paragraphs.append("One window under every row. Move the boundary, or choose what lies on each side.")
    if album.left_out:
        section.paragraphs.append(f"Left out for the size of the page (--max-mb): {', '.join(album.left_out)}.")
    if len(grids) > count:
        section.paragraphs.append(f"{count} of {len(grids)} pictures.")
    return section


def _plots(folder: Path) -> Section:
    album = Album(0)
    plots = [album.plot(folder / name, heading) for name, heading in _PLOTS]
    return Section("plots", "Plots", comparisons=[plot for plot in plots if plot is not None])


def _failures(images: Sequence[Row], baselines: Mapping[str, str]) -> Section:
    """Return, for each variant and metric, the images on which it loses most against the baseline."""
    section = Section("failures", "Failure cases")
    groups: dict[tuple[str, str, str], list[tuple[float, Row]]] = {}
    for row in images:
        if row["difference"]:
            sign = -1 if row["better"] == "lower" else 1
            groups.setdefault((row["variant"], row["set"], row["metric"]), []).append(
                (sign * float(row["difference"]), row)
            )
    for (variant, test_set, metric), rows in groups.items():
        rows.sort(key=lambda pair: pair[0])
        baseline = baselines.get(variant, "the baseline")
        losses = sum(gain < 0 for gain, _ in rows)
        lines = [
            [
                Cell(row["image"]),
                Cell(shown(float(row["mean"]), metric)),
                Cell(shown(float(row["difference"]), metric, True)),
            ]
            for _, row in rows[:_WORST]
        ]
        caption = (
            f"{title(metric)} of {variant} on {test_set}: worse than {baseline} on {losses} of {len(rows)} images; the "
            f"{len(lines)} worst"
        )
        section.tables.append(Table(caption, ["image", title(metric), _less(variant, baselines)], lines))
    if section.tables:
        section.paragraphs.append("Means over seeds of each image. MIoU of an image is over the classes in it.")
    return section
