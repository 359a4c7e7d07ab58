"""Semantic divergence of the demonstration's test scenes, and what can be told of their MIoU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.pipeline.image_records import RECORDS, read_records
from d2sm_plugin.studies.bootstrap import Difference, PairedTotals, miou_value
from d2sm_plugin.studies.evaluation.divergence_eval import measure
from d2sm_plugin.studies.evaluation.divergence_report import Divergence, change
from d2sm_plugin.studies.evaluation.methods import Method, stored_method
from d2sm_plugin.studies.evaluation.semantic_methods import Material, noisy_method
from d2sm_plugin.studies.evaluation.semantic_views import read_views

_GROUP = 2048  # samples that are compared with each other


def divergences(
    clean: Path, restored: Mapping[float, Mapping[str, Path]], objective: Path
) -> dict[float, dict[str, Divergence]]:
    """Measure the semantic divergence of noisy and restored scenes from the clean ones.

    Args:
        clean: the scenes.
        restored: noise level -> method -> folder of what it restored.
        objective: option file of a training with D2SM, whose features and samples count.

    Returns:
        Noise level -> method, the noisy scenes among them -> measurements.
    """
    store = open_images(str(clean))
    source = Method("clean", store.read_rgb, store.describe)
    rows: dict[float | None, list[Method]] = {
        sigma: [noisy_method(source, sigma)]
        + [stored_method(name, open_images(str(folder)), store.keys, store.root) for name, folder in methods.items()]
        for sigma, methods in restored.items()
    }
    measured: dict[float, dict[str, Divergence]] = {}
    for divergence in measure(Material(list(store.keys), source, rows), read_views([str(objective)], "cpu"), _GROUP):
        assert divergence.sigma is not None  # all of them are noisy
        measured.setdefault(divergence.sigma, {})[divergence.method] = divergence
    return measured


def miou_difference(variant: Path, baseline: Path, test_set: str) -> Difference:
    """Return the difference of two tests in MIoU, with its interval over scenes.

    Args:
        variant: folder of the one's results.
        baseline: folder of the other's, on the same scenes.
        test_set: name of the set.
    """
    totals = []
    for folder in (variant, baseline):
        counts = [row.counts for row in read_records(folder / RECORDS)[test_set] if row.counts is not None]
        totals.append(np.stack(counts).reshape(1, len(counts), -1).astype(np.float64))
    scenes = [[place] for place in range(totals[0].shape[1])]  # each is a street of its own
    return PairedTotals(totals[0], totals[1], scenes, miou_value).difference()


def sentences(
    measured: Mapping[float, Mapping[str, Divergence]], baseline: str, variant: str, miou: Difference
) -> list[str]:
    """Say in words what came out at the highest noise level.

    Args:
        measured: by :func:`divergences`.
        baseline: method that is compared with.
        variant: method with D2SM.
        miou: their difference in MIoU at that level.
    """
    sigma = max(measured)
    percent, error = change(measured[sigma][variant], measured[sigma][baseline])
    words = f"{abs(percent):.1f} ± {error:.1f} % {'below' if percent < 0 else 'above'}"
    lines = [f"Divergence from the clean scenes at σ = {sigma:g}: {variant} lies {words} {baseline}."]
    if miou.low is None or miou.high is None:
        return [*lines, "MIoU: one scene tells nothing of others."]
    interval = (
        f"{miou.value:+.2f} points at σ = {sigma:g}, 95 % interval over scenes {miou.low:+.2f} to {miou.high:+.2f}"
    )
    if miou.low > 0 or miou.high < 0:
        return [*lines, f"MIoU: {variant} differs from {baseline} by {interval}."]
    return [
        *lines,
        f"MIoU: no gain shows on generated scenes ({interval}); docs/results/README.md has real streets (CamVid).",
    ]
