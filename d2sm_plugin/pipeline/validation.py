"""Measures a network on validation or test sets, and writes pictures of what it restores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from d2sm_plugin.data.keys import check_key
from d2sm_plugin.errors import OptionError
from d2sm_plugin.metrics.images import check_numbers, to_uint8
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.pipeline.distributed import gather_objects, world
from d2sm_plugin.pipeline.pictures import side_by_side, write_png
from d2sm_plugin.registry import lookup
from d2sm_plugin.seg.scorer import SegmentationScorer


class Evaluator:
    """Restores and measures whole sets, the images shared out among ranks.

    Args:
        options: validated options; ``val`` says what to measure.
        loaders: name of the set -> loader of this rank's share.
        pictures: folder for pictures; None writes none.
        every_restored: write each restored image by itself too, as testing does (``PICTURES/SET/KEY.png``, with the
            side-by-side pictures in a folder ``comparison`` beside). Otherwise side-by-side pictures alone are written,
            at most ``val.max_pictures`` a set, named by step (``PICTURES/SET/KEY_ITER.png``).
        device: where the segmentation network of ``val.segmentation`` runs.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        loaders: Mapping[str, DataLoader[dict[str, Any]]],
        pictures: Path | None,
        every_restored: bool,
        device: Any,
    ) -> None:
        self.val = options["val"]
        self.loaders = loaders
        self.pictures = pictures if self.val["save_img"] else None
        self.every_restored = every_restored
        block = self.val["segmentation"]
        self.segmentation = SegmentationScorer(block, device) if block is not None else None

    def run(self, model: D2SMModel, iteration: int) -> dict[str, tuple[int, dict[str, float]]]:
        """Measure every set.

        Returns:
            Name of the set -> (number of images, metric -> mean over images; segmentation scores in percent), the same
            on every rank.
        """
        return {name: self._run_set(model, name, loader, iteration) for name, loader in self.loaders.items()}

    def _run_set(
        self, model: D2SMModel, name: str, loader: DataLoader[dict[str, Any]], iteration: int
    ) -> tuple[int, dict[str, float]]:
        rows: list[tuple[str, dict[str, float]]] = []
        if self.segmentation is not None:
            self.segmentation.start()
        shown = -(-self.val["max_pictures"] // world()[1]) if not self.every_restored else len(loader.dataset)  # type: ignore[arg-type]
        bar = tqdm(
            total=len(loader.dataset),  # type: ignore[arg-type]
            desc=name,
            unit="image",
            leave=False,
            disable=None if self.val["pbar"] and world()[0] == 0 else True,
        )
        with bar:
            for batch in loader:
                restored = model.restore(batch, self.val["tile"], self.val["tile_overlap"])
                keys, extra = image_keys(batch), model.measure(batch, restored)
                check_numbers(restored, [f"{name}: the restored image '{key}'" for key in keys])
                if self.segmentation is not None:
                    self.segmentation.add(keys, restored)
                for position, key in enumerate(keys):
                    images = _image_row(batch, restored, position)
                    rows.append((key, self._measure(images) | extra[position]))
                    if self.pictures is not None and len(rows) <= shown:
                        self._write(images, name, key, iteration)
                bar.update(len(keys))
        return self._mean(rows)

    def _measure(self, images: Mapping[str, np.ndarray]) -> dict[str, float]:
        values: dict[str, float] = {}
        if self.val["metrics"] and "clean" not in images:
            raise OptionError("val.metrics: the dataset gives no gt to measure against; remove the metrics")
        for name, block in self.val["metrics"].items():
            metric = lookup(METRIC_REGISTRY, block["type"], f"val.metrics.{name}.type")
            arguments = {key: value for key, value in block.items() if key not in ("type", "better")}
            clean = images["clean"][..., ::-1]  # BasicSR's metrics take BGR
            values[name] = float(metric(images["restored"][..., ::-1], clean, **arguments))
            if self.val["measure_input"]:
                if images["input"].shape != images["clean"].shape:
                    raise OptionError("val.measure_input: input and clean image differ in size; switch it off")
                values[f"{name}_input"] = float(metric(images["input"][..., ::-1], clean, **arguments))
        return values

    def _mean(self, rows: list[tuple[str, dict[str, float]]]) -> tuple[int, dict[str, float]]:
        """Average over all ranks' images, in the order of their keys so that the sum is the same for any sharing."""
        joint = sorted((row for share in gather_objects(rows) for row in share), key=lambda row: row[0])
        names = joint[0][1] if joint else {}
        means = {name: float(np.mean([values[name] for _, values in joint])) for name in names}
        if self.segmentation is not None:
            means |= self.segmentation.finish()
        return len(joint), means

    def _write(self, images: dict[str, np.ndarray], set_name: str, key: str, iteration: int) -> None:
        assert self.pictures is not None  # checked by the caller
        overlay = self.segmentation.overlay(key) if self.segmentation is not None else None
        if overlay is not None:
            images = {**images, "segmentation": overlay}
        if not self.every_restored:
            write_png(self.pictures / set_name / f"{key}_{iteration}.png", side_by_side(images))
            return
        suffix = f"_{self.val['suffix']}" if self.val["suffix"] else ""
        write_png(self.pictures / set_name / f"{key}{suffix}.png", images["restored"])
        write_png(self.pictures.parent / "comparison" / set_name / f"{key}.png", side_by_side(images))


def image_keys(batch: Mapping[str, Any]) -> list[str]:
    """Return the names of a batch's images: ``key``, or the stem of the path where a dataset gives paths alone."""
    if "key" in batch:
        return [check_key(str(key), "datasets: the key of an image") for key in batch["key"]]
    paths = batch.get("gt_path", batch.get("lq_path"))
    return [Path(path).stem for path in paths]


def _image_row(batch: Mapping[str, Any], restored: Tensor, position: int) -> dict[str, np.ndarray]:
    images = {"input": to_uint8(batch["lq"][position]), "restored": to_uint8(restored[position])}
    if "gt" in batch:
        images["clean"] = to_uint8(batch["gt"][position])
    return images
