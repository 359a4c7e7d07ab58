"""The semantic divergence of restored images from clear ones, on images that no training has seen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2sm_plugin.arguments import Parser, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.studies.evaluation.divergence_report import Divergence, tables, write_report
from d2sm_plugin.studies.evaluation.paired_statistics import PairedStatistics, paired_statistics
from d2sm_plugin.studies.evaluation.semantic_features import Samples, collect_samples, groups_of
from d2sm_plugin.studies.evaluation.semantic_methods import Material, add_material_arguments, gather_material
from d2sm_plugin.studies.evaluation.semantic_views import View, read_views


def main(argv: Sequence[str] | None = None) -> int:
    """Measure divergences as the command line says; see ``--help``."""
    arguments = _parser().parse_args(argv)
    material = gather_material(arguments)
    if arguments.reference is not None:
        _check_reference(arguments.reference, material)
    results = measure(material, read_views(arguments.extractor, arguments.device), arguments.group)
    print(tables(results, arguments.reference))  # noqa: T201  # the table is what the tool is for
    if arguments.out:
        write_report(results, material.keys, arguments.reference, Path(arguments.out))
        print(f"\nwritten to {arguments.out}")  # noqa: T201
    return 0


def measure(material: Material, views: Sequence[View], group: int | None = None) -> list[Divergence]:
    """Measure all methods at all noise levels, in all views.

    Args:
        material: what is compared.
        views: extractors and samples.
        group: largest number of samples that form one joint distribution; None takes all.

    Returns:
        The results by view, noise level and method, in this order.

    Raises:
        OptionError: when samples cannot be grouped like this.
        DataError: when images or features cannot be used.
    """
    clear = collect_samples(material.clean, material.clean, material.keys, views, "clean")
    groups = [groups_of(samples, view, group) for samples, view in zip(clear, views, strict=True)]
    by_view: list[list[Divergence]] = [[] for _ in views]
    for sigma, methods in material.rows.items():
        for method in methods:
            title = method.name if sigma is None else f"{method.name} {sigma:g}"
            restored = collect_samples(method, material.clean, material.keys, views, title)
            for i, view in enumerate(views):
                values = paired_statistics(restored[i].features, clear[i].features, groups[i])
                result = _summary(values, clear[i], view.name, sigma, method.name, groups[i])
                by_view[i].append(result)
    return [result for results in by_view for result in results]


def _summary(
    values: PairedStatistics, clear: Samples, view: str, sigma: float | None, method: str, groups: Sequence[Tensor]
) -> Divergence:
    means = PairedStatistics(*(value.mean() for value in values))
    counts = torch.bincount(clear.image.cpu())
    image_kl = torch.bincount(clear.image.cpu(), weights=values.kl) / counts
    return Divergence(view, sigma, method, len(clear), len(groups), means, np.asarray(image_kl))


def _check_reference(name: str, material: Material) -> None:
    for methods in material.rows.values():
        names = [method.name for method in methods]
        if name not in names:
            raise OptionError(f"--reference {name}: no row has this name{suggest(name, names)}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Semantic divergence of restored images from clear ones, on images that no training has seen."
    )
    add_custom_import(parser)
    add_material_arguments(parser)
    parser.add_argument(
        "--group", type=whole(2), metavar="N", help="samples that form one joint distribution, at most (default: all)"
    )
    parser.add_argument("--reference", metavar="NAME", help="compare the KL of all rows with that of this one")
    parser.add_argument("--out", type=out_folder, metavar="DIR", help="folder for tables and the plot")
    return parser
