"""The results of a segmentation comparison: tables, JSON, CSV and a plot of the classes."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from d2sm_plugin.files import write_csv, write_json, write_whole
from d2sm_plugin.pipeline.image_records import RECORDS, write_records
from d2sm_plugin.studies.bootstrap import PairedTotals, blocks_of, miou_value
from d2sm_plugin.studies.evaluation.seg_scoring import MethodScores

_SUMMARY = ("mIoU", "aAcc", "mAcc")


def tables(results: Sequence[MethodScores], reference: str | None = None, block: int = 10) -> str:
    """Return two tables in Markdown: methods x mIoU, aAcc, mAcc (and PSNR), and classes x methods.

    Args:
        results: one of each method.
        reference: method that mIoU is compared with, with 95 % intervals over scenes; None for no such column.
        block: neighbouring images that these take as one scene.
    """
    psnr = any(result.psnr is not None for result in results)
    base = next((result for result in results if result.name == reference), None)
    rows = [
        [r.name, *map(_shown, _summary(r))]
        + ([_shown(r.psnr)] if psnr else [])
        + ([] if base is None else [_compared(r, base, block)])
        for r in results
    ]
    headers = ["method", *_SUMMARY, *(["PSNR [dB]"] if psnr else [])]
    headers += [] if base is None else [f"mIoU against {base.name} [95 % interval]"]
    summary = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    classes = [[name, *(_shown(r.scores.iou[name]) for r in results)] for name in results[0].scores.iou]
    by_class = tabulate(
        classes, headers=["IoU [%]", *(r.name for r in results)], tablefmt="github", disable_numparse=True
    )
    return f"{summary}\n\n{by_class}"


def image_table(results: Sequence[MethodScores], keys: Collection[str]) -> str:
    """Return a table in Markdown of single images: a row for each, aAcc / mAcc / mIoU of every method in percent.

    Args:
        results: one of each method.
        keys: images that are shown.
    """
    of_methods = [{row.key: row.values for row in result.images} for result in results]
    rows = [
        [key, *(" / ".join(_shown(of[key].get(name)) for name in ("aAcc", "mAcc", "mIoU")) for of in of_methods)]
        for key in (row.key for row in results[0].images)
        if key in keys
    ]
    headers = ["aAcc / mAcc / mIoU [%]", *(result.name for result in results)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def document(results: Sequence[MethodScores]) -> dict[str, dict[str, object]]:
    """Return what ``metrics.json`` holds: method -> mIoU, aAcc, mAcc, IoU by class (percent), PSNR (dB) if measured.

    What is not a finite number (IoU of a class that never occurs, PSNR of equal images) is None.
    """
    methods_of: dict[str, dict[str, object]] = {}
    for result in results:
        entry: dict[str, object] = dict(zip(_SUMMARY, map(_finite, _summary(result)), strict=True))
        entry["IoU"] = {name: _finite(value) for name, value in result.scores.iou.items()}
        if result.psnr is not None:
            entry["PSNR"] = _finite(result.psnr)
        methods_of[result.name] = entry
    return methods_of


def write_report(
    results: Sequence[MethodScores],
    out: Path,
    reference: str | None = None,
    block: int = 10,
    shown: Collection[str] = (),
) -> None:
    """Write ``metrics.json``, two CSV files, ``table.md`` and ``iou_by_class.png`` into ``out``, each whole.

    ``metrics.csv`` has a row for each method, ``by_image.csv`` one for each method and image; see :func:`tables`.
    ``table.md`` ends with the images that are ``shown``, if any.

    Raises:
        DataError: when a file cannot be written.
    """
    classes = list(results[0].scores.iou)
    header = ["method", *_SUMMARY, "PSNR", *(f"IoU/{name}" for name in classes)]
    rows = [[result.name, *_summary(result), result.psnr, *result.scores.iou.values()] for result in results]
    write_json(out / "metrics.json", document(results))
    write_csv(out / "metrics.csv", header, rows)
    write_records(out / RECORDS, {result.name: result.images for result in results}, classes)
    parts = [tables(results, reference, block), *([image_table(results, shown)] if shown else [])]
    write_whole(out / "table.md", "\n\n".join(parts) + "\n")
    write_whole(out / "iou_by_class.png", _bars(results))


def _bars(results: Sequence[MethodScores]) -> bytes:
    """Encoded PNG: IoU by class, one bar for every method, and their mean first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, and no global state
    from matplotlib.figure import Figure

    names = ["mIoU", *results[0].scores.iou]
    width = 0.8 / len(results)
    figure = Figure(figsize=(max(6.0, 0.35 * len(names) * (1 + 0.3 * len(results))), 4.5), layout="constrained")
    axes = figure.subplots()
    for i, result in enumerate(results):
        values = np.nan_to_num([result.scores.miou, *result.scores.iou.values()])
        axes.bar(np.arange(len(names)) + (i - (len(results) - 1) / 2) * width, values, width, label=result.name)
    axes.axvline(0.5, color="0.8", linewidth=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_ylabel("IoU [%]")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _summary(result: MethodScores) -> tuple[float, float, float]:
    return result.scores.miou, result.scores.aacc, result.scores.macc


def _compared(result: MethodScores, base: MethodScores, block: int) -> str:
    """Difference in mIoU, paired image by image, with its interval over blocks of neighbouring images."""
    if result is base:
        return ""
    blocks = blocks_of([row.key for row in base.images], block)
    change = PairedTotals(_totals(result), _totals(base), blocks, miou_value).difference()
    if change.low is None:
        return f"{change.value:+.2f}"
    return f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"


def _totals(result: MethodScores) -> NDArray[np.float64]:
    counts = [row.counts for row in result.images if row.counts is not None]
    return np.stack(counts).reshape(1, len(result.images), -1).astype(np.float64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"
