"""Evaluation of a network on validation or test sets, with pictures of what it restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from torch import Tensor
from tqdm import tqdm

from d2sm_plugin.blocks import read_block
from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.data.keys import check_key
from d2sm_plugin.errors import OptionError
from d2sm_plugin.metrics.images import check_numbers, to_uint8
from d2sm_plugin.metrics.set_metrics import is_of_set
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.models.data_check import check_inputs
from d2sm_plugin.options.schema import ValOptions
from d2sm_plugin.pipeline.distributed import gather_objects, world
from d2sm_plugin.pipeline.image_records import ImageRecord
from d2sm_plugin.pipeline.metric_blocks import ImageMetric, MetricOfSet
from d2sm_plugin.pipeline.metrics_file import Results
from d2sm_plugin.pipeline.pictures import lay_out, write_png, write_sheet
from d2sm_plugin.random_guard import untouched_random_state
from d2sm_plugin.registry import METRIC_REGISTRY, lookup
from d2sm_plugin.seg.scorer import SegmentationScorer


class Restores(Protocol):
    """Model as the evaluator takes one, such as :class:`~d2sm_plugin.models.d2sm_model.D2SMModel`."""

    def restore(self, batch: Mapping[str, Any], tile: int | None = None, tile_overlap: int | None = None) -> Tensor:
        """Restored images (B, C, H, W) of a batch."""

    def measure(self, batch: Mapping[str, Any], restored: Tensor) -> list[dict[str, float]]:
        """Figures of each image beside those of ``val.metrics``."""


class GroupedBatches(Protocol):
    """Loader as the evaluator takes one, such as :class:`~d2sm_plugin.pipeline.loaders.EvaluationLoader`."""

    where: str  # path of the option block, for messages

    @property
    def dataset(self) -> Any:
        """Dataset of this rank's share, with a length."""

    def groups(self) -> Iterator[list[dict[str, Any]]]:
        """Batches, in groups that all ranks go through together."""


class Evaluator:
    """Restoration and measurement of whole sets, the images shared out among ranks.

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
        loaders: Mapping[str, GroupedBatches],
        pictures: Path | None,
        every_restored: bool,
        device: Any,
    ) -> None:
        self.val = read_block(ValOptions, options["val"], "val")
        self.loaders = loaders
        self.pictures = pictures if self.val.save_img else None
        self.every_restored = every_restored
        self.metrics: dict[str, ImageMetric] = {}
        self.set_metrics: dict[str, MetricOfSet] = {}
        for name, block in self.val.metrics.items():
            where = f"val.metrics.{name}"
            if not is_of_set(lookup(METRIC_REGISTRY, block["type"], f"{where}.type")):
                self.metrics[name] = ImageMetric(block, where)
                continue
            self.set_metrics[name] = MetricOfSet(block, where, "restored")
            if self.val.measure_input:
                self.set_metrics[f"{name}_input"] = MetricOfSet(block, where, "input")
        judge = self.val.segmentation
        self.segmentation = SegmentationScorer(judge, device) if judge is not None else None
        #: name of the set -> what was measured of each image, on every rank
        self.by_image: dict[str, list[ImageRecord]] = {}

    @overload
    def run(self, model: Restores, iteration: int) -> Results: ...

    @overload
    def run(self, model: Restores, iteration: int, stop: Callable[[], bool]) -> Results | None: ...

    def run(self, model: Restores, iteration: int, stop: Callable[[], bool] = lambda: False) -> Results | None:
        """Measure every set.

        Args:
            model: restores.
            iteration: number of the step, for the names of pictures.
            stop: asked before each batch, on every rank, which must agree: whether to leave.

        Returns:
            Name of the set -> (number of images, metric -> mean over images; segmentation scores in percent), the same
            on every rank; None when ``stop`` said so.
        """
        results = {}
        for name, loader in self.loaders.items():
            result = self._run_set(model, name, loader, iteration, stop)
            if result is None:
                return None
            results[name] = result
        return results

    @property
    def class_names(self) -> Sequence[str]:
        """Classes whose pixels are counted; none without ``val.segmentation``."""
        return self.segmentation.classes.names if self.segmentation is not None else ()

    def try_sets(self, model: D2SMModel) -> None:
        """Try the first image of every set, so that what cannot be restored or measured fails before a run.

        The network must take what the sample gives, and the metrics measure the image against itself.

        Args:
            model: that will restore.

        Raises:
            OptionError: naming the data set or the metric and the image.
        """
        for loader in self.loaders.values():
            if not len(loader.dataset):
                continue
            with untouched_random_state():
                sample = loader.dataset[0]
            check_inputs(model.best_network, sample, loader.where)
            batch = {name: [value] for name, value in sample.items()}
            images = _image_row(batch, batch.get("gt", batch["lq"]), 0)
            self._measure(image_keys(batch)[0], images)
            for metric in self.set_metrics.values():
                metric.reset()
                metric.update(image_keys(batch)[0], images)

    def _run_set(
        self, model: Restores, name: str, loader: GroupedBatches, iteration: int, stop: Callable[[], bool]
    ) -> tuple[int, dict[str, float]] | None:
        rows: list[tuple[str, dict[str, float]]] = []
        if self.segmentation is not None:
            self.segmentation.start()
        for metric in self.set_metrics.values():
            metric.reset()
        shown = -(-self.val.max_pictures // world()[1]) if not self.every_restored else len(loader.dataset)
        bar = tqdm(
            total=len(loader.dataset),
            desc=name,
            unit="image",
            leave=False,
            disable=None if self.val.pbar and world()[0] == 0 else True,
        )
        with bar:
            for batches in loader.groups():
                if stop():
                    return None
                for batch in batches:
                    for key, images, values in self._run_batch(model, name, batch):
                        rows.append((key, values))
                        if self.pictures is not None and len(rows) <= shown:
                            self._write(images, name, key, iteration)
                        bar.update()
        return self._mean(name, rows)

    def _run_batch(
        self, model: Restores, name: str, batch: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, float]]]:
        """Restore a batch, and yield the key of each image, its pictures by name, and what was measured of it."""
        keys = image_keys(batch)
        with foreign_code(lambda: f"{type(model).__name__} in validation, {name}: {', '.join(keys)}"):
            restored = model.restore(batch, self.val.tile, self.val.tile_overlap)
            extra = model.measure(batch, restored)
        check_numbers(restored, [f"{name}: the restored image '{key}'" for key in keys])
        if self.segmentation is not None:
            self.segmentation.add(keys, restored)
        for position, key in enumerate(keys):
            images = _image_row(batch, restored, position)
            for metric in self.set_metrics.values():
                metric.update(key, images)
            yield key, images, self._measure(key, images) | extra[position]

    def _measure(self, key: str, images: Mapping[str, np.ndarray]) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, metric in self.metrics.items():
            values[name] = metric(images["restored"], images.get("clean"), key)
            if self.val.measure_input:
                if "clean" in images and images["input"].shape != images["clean"].shape:
                    raise OptionError("val.measure_input: input and clean image differ in size; switch it off")
                values[f"{name}_input"] = metric(images["input"], images.get("clean"), key)
        return values

    def _mean(self, set_name: str, rows: list[tuple[str, dict[str, float]]]) -> tuple[int, dict[str, float]]:
        """Average over all ranks' images, in the order of their keys so that the sum is the same for any sharing."""
        scores = self.segmentation.finish() if self.segmentation is not None else {}
        counts = self.segmentation.by_image if self.segmentation is not None else {}
        records = [ImageRecord(key, values, counts.get(key)) for key, values in rows]
        joint = sorted((row for share in gather_objects(records) for row in share), key=lambda row: row.key)
        self.by_image[set_name] = joint
        names = joint[0].values if joint else {}
        means = {name: float(np.mean([row.values[name] for row in joint])) for name in names}
        of_sets = {name: metric.compute() for name, metric in self.set_metrics.items()} if joint else {}
        return len(joint), means | of_sets | scores

    def _write(self, images: dict[str, np.ndarray], set_name: str, key: str, iteration: int) -> None:
        assert self.pictures is not None  # checked by the caller
        overlay = self.segmentation.overlay(key) if self.segmentation is not None else None
        if overlay is not None:
            images = {**images, "segmentation": overlay}
        if not self.every_restored:
            write_sheet(self.pictures / set_name / f"{key}_{iteration}.png", lay_out(images))
            return
        suffix = f"_{self.val.suffix}" if self.val.suffix else ""
        write_png(self.pictures / set_name / f"{key}{suffix}.png", images["restored"])
        write_sheet(self.pictures.parent / "comparison" / set_name / f"{key}.png", lay_out(images))


def image_keys(batch: Mapping[str, Any]) -> list[str]:
    """Return the names of a batch's images: ``key``, or the stem of the path where a dataset gives paths alone."""
    if "key" in batch:
        return [check_key(str(key), "datasets: the key of an image") for key in batch["key"]]
    paths = batch.get("gt_path", batch.get("lq_path"))
    return [Path(path).stem for path in paths]


def _image_row(batch: Mapping[str, Any], restored: Sequence[Tensor] | Tensor, position: int) -> dict[str, np.ndarray]:
    images = {"input": to_uint8(batch["lq"][position]), "restored": to_uint8(restored[position])}
    if "gt" in batch:
        images["clean"] = to_uint8(batch["gt"][position])
    return images
