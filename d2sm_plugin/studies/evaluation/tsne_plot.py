"""t-SNE of the semantic features of noisy, restored and clear images (Figure 1), with scores of how they mix."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor

from d2sm_plugin.arguments import MAX_SEED, Parser, number, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.errors import OptionError
from d2sm_plugin.files import write_csv, write_whole
from d2sm_plugin.studies.evaluation.class_scores import ClassScores, class_scores, classes_of
from d2sm_plugin.studies.evaluation.seg_methods import CLEAN
from d2sm_plugin.studies.evaluation.semantic_features import collect_samples
from d2sm_plugin.studies.evaluation.semantic_methods import add_material_arguments, gather_material
from d2sm_plugin.studies.evaluation.semantic_views import read_views
from d2sm_plugin.studies.evaluation.separation import (
    FOLDS,
    NEIGHBOURS,
    Features,
    Separation,
    check_enough,
    import_sklearn,
    separation,
    unit,
)
from d2sm_plugin.studies.evaluation.tsne_figure import draw, draw_classes

_HEADERS: tuple[str, ...] = (
    "extractor",
    "σ",
    "images",
    "own nearest [%]",
    "mixed [%]",
    "silhouette",
    "C2ST linear [%]",
)
_HEADERS += (f"C2ST {NEIGHBOURS + 1}-nearest [%]",)
_COLUMNS = ("extractor", "sigma", "method", *Separation._fields)
_CLASS_HEADERS = ("extractor", "σ", "images", "class nearest [%]", "silhouette of classes", "clusters (Rand)")
_CLASS_COLUMNS = ("extractor", "sigma", "method", *ClassScores._fields)


def main(argv: Sequence[str] | None = None) -> int:
    """Embed, draw and score as the command line says; see ``--help``."""
    arguments = _parser().parse_args(argv)
    import_sklearn()
    material = gather_material(arguments)
    if len(material.keys) < FOLDS:
        raise OptionError(
            f"{arguments.clean}: {len(material.keys)} image(s) are too few; scores take {FOLDS} folds of images"
        )
    classes = classes_of(material.keys, arguments.clean) if arguments.classes else None
    views = read_views(arguments.extractor, arguments.device)
    sets = max(map(len, material.rows.values())) + 1
    check_perplexity(arguments.perplexity, arguments.samples * sets)  # before the work that it would spoil
    clear = collect_samples(material.clean, material.clean, material.keys, views, CLEAN)
    chosen = [choose(len(samples), arguments.samples) for samples in clear]
    for view, samples, rows in zip(views, clear, chosen, strict=True):  # before all others are restored
        check_enough(len(rows), len(samples.image[rows].unique()), f"extractor '{view.name}'")
    scores: list[list[object]] = []
    by_class: list[list[object]] = []
    for sigma, methods in material.rows.items():
        level = "" if sigma is None else f"{sigma:g}"
        restored = {
            method.name: collect_samples(method, material.clean, material.keys, views, f"{method.name} {level}")
            for method in methods
        }
        for i, view in enumerate(views):
            features = {name: samples[i].features[chosen[i]].cpu().numpy() for name, samples in restored.items()}
            target, image = clear[i].features[chosen[i]].cpu().numpy(), clear[i].image[chosen[i]].numpy()
            keys = [material.keys[number] for number in image]
            points = _embedded(arguments, view.name, level, features, target, keys)
            scores += _compare(arguments, view.name, level, features, target, image, points)
            if classes is not None:
                labels = [classes[number] for number in image]
                by_class += _compare_classes(arguments, view.name, level, features, target, labels, points)
    table = _table(scores)
    if classes is not None:
        table += "\n\n" + _class_table(by_class)
        write_csv(Path(arguments.out) / "class_scores.csv", _CLASS_COLUMNS, by_class)
    write_csv(Path(arguments.out) / "scores.csv", _COLUMNS, scores)
    write_whole(Path(arguments.out) / "table.md", table + "\n")
    print(table)  # noqa: T201  # the table is what the tool is for
    print(f"\nwritten to {arguments.out}")  # noqa: T201
    return 0


def embed(sets: Sequence[Features], perplexity: float, seed: int) -> list[NDArray[np.float64]]:
    """Embed several sets of features jointly in the plane, by t-SNE (van der Maaten and Hinton, JMLR 2008).

    Features are divided by their lengths first, so that distances follow the cosine, as the objective does.

    Args:
        sets: features (N, D) each.
        perplexity: effective number of neighbours of a point.
        seed: the same seed gives the same embedding.

    Returns:
        Points (N, 2) of every set.

    Raises:
        OptionError: for a perplexity that asks for more neighbours than there are points.
        DependencyError: when scikit-learn is missing.
    """
    joint = np.vstack([unit(features) for features in sets])
    check_perplexity(perplexity, len(joint))
    tsne = import_sklearn()["TSNE"](perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    points = tsne.fit_transform(joint).astype(np.float64)
    return np.split(points, np.cumsum([len(features) for features in sets])[:-1])


def check_perplexity(perplexity: float, points: int) -> None:
    """Raise an OptionError unless t-SNE can look at its 3 * perplexity neighbours of each point."""
    if not 1 <= perplexity <= (points - 1) / 3:
        raise OptionError(
            f"--perplexity {perplexity:g}: with {points} points it must be from 1 to {(points - 1) / 3:.4g} (t-SNE "
            f"looks at three times as many neighbours of each); set another, or take more --samples"
        )


def choose(count: int, limit: int) -> Tensor:
    """Return ``limit`` of ``count`` indices, drawn with a fixed seed and in ascending order; all if there are fewer."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit].sort().values


def _embedded(
    arguments: argparse.Namespace,
    view: str,
    level: str,
    restored: dict[str, Features],
    clear: Features,
    keys: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """Embed the methods of one view and noise level together, and write their points."""
    embedded = embed([*restored.values(), clear], arguments.perplexity, arguments.seed)
    points = dict(zip([*restored, CLEAN], embedded, strict=True))
    rows = [
        [name, key, index, *map(float, point)]
        for name, places in points.items()
        for index, (key, point) in enumerate(zip(keys, places, strict=True))
    ]
    write_csv(_file(arguments, "tsne", view, level, "csv"), ("method", "image", "sample", "x", "y"), rows)
    return points


def _compare(
    arguments: argparse.Namespace,
    view: str,
    level: str,
    restored: dict[str, Features],
    clear: Features,
    image: NDArray[np.int64],
    points: dict[str, NDArray[np.float64]],
) -> list[list[object]]:
    """Score and draw the methods of one view and noise level; returns a row of scores for each."""
    results = {name: separation(features, clear, image) for name, features in restored.items()}
    title = f"{_title(view, level)}: {len(clear)} samples of {len(np.unique(image))} images"
    picture = draw(points, results, title, arguments.lines)
    write_whole(_file(arguments, "tsne", view, level, "png"), picture)
    return [[view, level, name, *result] for name, result in results.items()]


def _compare_classes(
    arguments: argparse.Namespace,
    view: str,
    level: str,
    restored: dict[str, Features],
    clear: Features,
    classes: Sequence[str],
    points: dict[str, NDArray[np.float64]],
) -> list[list[object]]:
    """Score and draw the classes of one view and noise level; returns a row of scores for each method and the clear."""
    numbers = np.unique(list(classes), return_inverse=True)[1]
    results = {
        name: class_scores(features, clear, numbers, arguments.seed)
        for name, features in {**restored, CLEAN: clear}.items()
    }
    title = f"{_title(view, level)}: {len(clear)} samples of {len(set(classes))} classes"
    write_whole(_file(arguments, "classes", view, level, "png"), draw_classes(points, results, title, classes))
    return [[view, level, name, *result] for name, result in results.items()]


def _title(view: str, level: str) -> str:
    return f"{view}{f', σ = {level}' if level else ''}"


def _file(arguments: argparse.Namespace, kind: str, view: str, level: str, suffix: str) -> Path:
    name = f"{kind}_" + re.sub(r"[^\w.+-]+", "_", view).strip("_") + (f"_sigma{level}" if level else "")
    return Path(arguments.out) / f"{name}.{suffix}"


def _table(scores: Sequence[Sequence[object]]) -> str:
    rows = []
    for view, level, name, *values in scores:
        nearest_own, mixed, silhouette, linear, nearest = (float(str(value)) for value in values)
        shown = [f"{100 * nearest_own:.1f}", f"{100 * mixed:.1f}", f"{silhouette:.3f}", f"{100 * linear:.1f}"]
        rows.append([view, level or "-", name, *shown, f"{100 * nearest:.1f}"])
    return tabulate(rows, headers=_HEADERS, tablefmt="github", disable_numparse=True)


def _class_table(scores: Sequence[Sequence[object]]) -> str:
    rows = []
    for view, level, name, *values in scores:
        nearest, silhouette, clusters = (float(str(value)) for value in values)
        rows.append([view, level or "-", name, f"{100 * nearest:.1f}", f"{silhouette:.3f}", f"{clusters:.3f}"])
    return tabulate(rows, headers=_CLASS_HEADERS, tablefmt="github", disable_numparse=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="t-SNE of the semantic features of noisy, restored and clear images, with scores of how they mix."
    )
    add_custom_import(parser)
    add_material_arguments(parser)
    add = parser.add_argument
    add(
        "--samples",
        type=whole(NEIGHBOURS + 2),
        default=500,
        metavar="N",
        help="samples of each method (default: %(default)s)",
    )
    add("--perplexity", type=number(1), default=30, metavar="P", help="of t-SNE (default: %(default)s)")
    add("--seed", type=whole(0, MAX_SEED), default=0, help="of t-SNE (default: %(default)s)")
    add("--lines", action="store_true", help="join each restored sample with its clear one")
    add("--classes", action="store_true", help="folders of --clean are classes: colour and score by them")
    add("--out", required=True, type=out_folder, metavar="DIR", help="folder for pictures, points and scores")
    return parser
