"""The degraded and the clean images themselves, measured as if a network had restored them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2sm_plugin.pipeline.image_records import ImageRecord, write_records
from d2sm_plugin.pipeline.loaders import build_evaluation_loaders
from d2sm_plugin.pipeline.validation import Evaluator

#: Prefix of the clean images' scores among those of a reference.
CLEAN_PREFIX = "clean/"


class PassThrough:
    """Substitute for a model in an evaluation, which returns an entry of the batch as the restored images.

    Args:
        entry: ``lq`` or ``gt``.
    """

    def __init__(self, entry: str) -> None:
        self.entry = entry

    def restore(self, batch: Mapping[str, Any], tile: int | None = None, tile_overlap: int | None = None) -> Tensor:
        """Return the images (B, C, H, W) as the dataset gives them; tiles make no difference."""
        return batch[self.entry]

    def measure(self, batch: Mapping[str, Any], restored: Tensor) -> list[dict[str, float]]:
        """Return nothing beside ``val.metrics``, for each image."""
        return [{} for _ in restored]


def measure_references(options: Mapping[str, Any], records: Path) -> dict[str, dict[str, float]]:
    """Measure degraded and clean images of every test set.

    Args:
        options: validated options of a test, with the entries of ``start_processes``.
        records: file for what was measured of each image; the clean ones' sets are called ``clean/SET``.

    Returns:
        Name of the set -> metric -> mean for the degraded images, and ``clean/METRIC`` of the segmentation alone for
        the clean ones (their PSNR is infinite). Degraded images of another size than the clean ones, as in
        super-resolution, are not measured.
    """
    loaders = build_evaluation_loaders(options["datasets"], ("test", "val"), 0, 1)
    device = torch.device("cuda" if options["num_gpu"] else "cpu")
    references: dict[str, dict[str, float]] = {name: {} for name in loaders}
    quiet = {**options["val"], "save_img": False, "measure_input": False}
    plain = {**options, "val": quiet}
    by_image: dict[str, list[ImageRecord]] = {}
    classes: Sequence[str] = ()
    if options["scale"] == 1:
        evaluator = Evaluator(plain, loaders, None, True, device)
        for name, (_, metrics) in evaluator.run(PassThrough("lq"), 0).items():
            references[name] |= metrics
        by_image |= evaluator.by_image
        classes = evaluator.class_names
    if options["val"]["segmentation"] is not None:
        evaluator = Evaluator({**plain, "val": {**quiet, "metrics": {}}}, loaders, None, True, device)
        for name, (_, metrics) in evaluator.run(PassThrough("gt"), 0).items():
            references[name] |= {f"{CLEAN_PREFIX}{metric}": value for metric, value in metrics.items()}
        by_image |= {f"{CLEAN_PREFIX}{name}": rows for name, rows in evaluator.by_image.items()}
        classes = evaluator.class_names
    write_records(records, by_image, classes)
    return references
