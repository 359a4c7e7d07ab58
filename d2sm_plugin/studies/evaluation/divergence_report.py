"""The results of a comparison of features: a table for each view, CSV and a plot."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from d2sm_plugin.files import write_csv, write_whole
from d2sm_plugin.studies.evaluation.method_colours import colour_of
from d2sm_plugin.studies.evaluation.paired_statistics import PairedStatistics

_HEADERS = ("σ", "images", "KL (sum)", "KL / sample", "reverse KL", "feature MSE", "cosine distance", "own nearest [%]")
_COLUMNS: tuple[str, ...] = (
    "extractor",
    "sigma",
    "method",
    "images",
    "samples",
    "groups",
    "kl",
    "kl_per_sample",
    "reverse_kl",
)
_COLUMNS += ("reverse_kl_per_sample", "feature_mse", "cosine_distance", "own_nearest")


@dataclass(frozen=True)
class Divergence:
    """Measurements of one method, at one noise level, in one view.

    Attributes:
        view: name of the extractor.
        sigma: noise level (0-255 scale), or None.
        method: name of the row.
        samples: number of samples.
        groups: number of groups that they were compared in.
        means: of :class:`PairedStatistics` over all samples.
        image_kl: (images,), mean of KL(restored || clear) over the samples of each image.
    """

    view: str
    sigma: float | None
    method: str
    samples: int
    groups: int
    means: PairedStatistics
    image_kl: NDArray[np.float64]


def change(result: Divergence, reference: Divergence) -> tuple[float, float]:
    """Return by how much the KL of a method is above that of another, in percent, and the standard error.

    Both are over images, pair by pair: the mean of the differences divided by the mean of the reference; the error is
    that of the mean difference, infinite for a single image.
    """
    difference = result.image_kl - reference.image_kl
    scale = 100 / reference.image_kl.mean() if reference.image_kl.mean() > 0 else math.nan
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return float(scale * difference.mean()), float(scale * error)


def tables(results: Sequence[Divergence], reference: str | None = None) -> str:
    """Return one table in Markdown for each view; with ``reference`` a column compares with the method of that name."""
    parts = []
    for view in dict.fromkeys(result.view for result in results):
        chosen = [result for result in results if result.view == view]
        headers = [*_HEADERS, *([f"KL against {reference}"] if reference else [])]
        rows = [_row(result) + _compared(result, chosen, reference) for result in chosen]
        parts.append(
            f"{view}: {chosen[0].samples} samples of {len(chosen[0].image_kl)} images, {_grouped(chosen[0])}\n\n"
            + tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
        )
    return "\n\n".join(parts)


def write_report(results: Sequence[Divergence], keys: Sequence[str], reference: str | None, out: Path) -> None:
    """Write ``table.md``, ``divergence.csv``, ``per_image.csv`` and ``divergence.png`` into ``out``, each whole.

    Args:
        results: of all views, levels and methods.
        keys: of the images, in the order of ``image_kl``.
        reference: name of the method to compare with, or None.
        out: folder, made where it is missing.

    Raises:
        DataError: when a file cannot be written.
    """
    images = [
        [result.view, _level(result), result.method, key, value]
        for result in results
        for key, value in zip(keys, result.image_kl, strict=True)
    ]
    write_whole(out / "table.md", tables(results, reference) + "\n")
    write_csv(out / "divergence.csv", _COLUMNS, map(_record, results))
    write_csv(out / "per_image.csv", ("extractor", "sigma", "method", "image", "kl_per_sample"), images)
    write_whole(out / "divergence.png", _bars(results))


def _grouped(result: Divergence) -> str:
    return "compared all with all" if result.groups == 1 else f"compared in {result.groups} groups"


def _level(result: Divergence) -> str:
    return "" if result.sigma is None else f"{result.sigma:g}"


def _row(result: Divergence) -> list[str]:
    means = result.means
    kl, reverse = float(means.kl), float(means.reverse_kl)
    return [
        _level(result) or "-",
        result.method,
        f"{kl * result.samples:.4g}",
        f"{kl:.3e}",
        f"{reverse:.3e}",
        f"{float(means.squared):.3e}",
        f"{float(means.cosine):.4f}",
        f"{100 * float(means.own_nearest):.1f}",
    ]


def _compared(result: Divergence, results: Sequence[Divergence], reference: str | None) -> list[str]:
    if reference is None:
        return []
    (other,) = [r for r in results if r.sigma == result.sigma and r.method == reference]
    if other is result:
        return ["-"]
    percent, error = change(result, other)
    return [f"{percent:+.1f} ± {error:.1f} %" if math.isfinite(error) else f"{percent:+.1f} %"]


def _record(result: Divergence) -> list[object]:
    kl, reverse, squared, cosine, nearest = (float(value) for value in result.means)
    return [
        *(result.view, _level(result), result.method, len(result.image_kl), result.samples, result.groups),
        *(kl * result.samples, kl, reverse * result.samples, reverse, squared, cosine, nearest),
    ]


def _bars(results: Sequence[Divergence]) -> bytes:
    """Encoded PNG: KL of a sample, a panel for each view, a group of bars for each noise level."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, and no global state
    from matplotlib.figure import Figure

    views, methods = (list(dict.fromkeys(getattr(r, name) for r in results)) for name in ("view", "method"))
    levels = list(dict.fromkeys(r.sigma for r in results))
    width = 0.84 / len(methods)
    bars = len(levels) * (len(methods) + 1)
    figure = Figure(figsize=(1.5 + len(views) * max(3.0, 0.55 * bars), 4.2), dpi=110, layout="constrained")
    for axes, view in zip(figure.subplots(1, len(views), squeeze=False)[0], views, strict=True):
        highest = max(float(r.means.kl) for r in results if r.view == view)
        power = math.floor(math.log10(highest)) if highest > 0 else 0
        for i, method in enumerate(methods):
            by_sigma = {r.sigma: float(r.means.kl) / 10**power for r in results if (r.view, r.method) == (view, method)}
            places = [levels.index(level) + (i - (len(methods) - 1) / 2) * width for level in by_sigma]
            drawn = axes.bar(places, list(by_sigma.values()), 0.9 * width, color=colour_of(i, method), label=method)
            axes.bar_label(drawn, [f"{value:.2f}" for value in by_sigma.values()], fontsize=8, padding=2)
        axes.set_xticks(range(len(levels)), ["" if level is None else f"σ = {level:g}" for level in levels])
        axes.set_ylabel(f"KL(restored ‖ clear) per sample [$10^{{{power}}}$]")
        axes.set_title(view)
        axes.margins(y=0.1)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
