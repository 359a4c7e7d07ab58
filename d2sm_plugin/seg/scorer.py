"""Semantic accuracy in validation: segments restored images and scores them over the whole set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PositiveInt
from torch import Tensor

from d2sm_plugin.blocks import Block, read_block
from d2sm_plugin.data.image_store import ImageStore, open_images
from d2sm_plugin.errors import DataError
from d2sm_plugin.seg.classes import ClassSet
from d2sm_plugin.seg.confusion import ConfusionMatrix
from d2sm_plugin.seg.label_values import AS_STORED, describe
from d2sm_plugin.seg.overlay import overlay
from d2sm_plugin.seg.preprocess import to_levels
from d2sm_plugin.seg.segmentor import build_segmentor, choose_classes

WHERE = "val.segmentation"


class SegmentationOptions(Block):
    """Option keys of ``val.segmentation``."""

    model_config = ConfigDict(frozen=True)

    config: str = Field(description="mmseg config: a path, or the name of one that mmseg or this package ships")
    checkpoint: str = Field(description="path or URL of its checkpoint")
    labels: str = Field(description="label maps with the keys of the images: a folder or an LMDB")
    classes: str | None = Field(None, description="cityscapes, camvid or a file; none: those of the checkpoint")
    batch_size: PositiveInt = Field(4, description="images of one size that are segmented at once (on GPUs)")
    amp: bool | Literal["bf16"] = Field(False, description="true or bf16: run the network in bfloat16")
    overlay: bool = Field(True, description="lay the predicted classes over the pictures of restored images")
    test_resize: bool = Field(False, description="resize as the config's test pipeline says, as mmseg itself does")


def read_segmentation_options(block: Mapping[str, Any]) -> SegmentationOptions:
    """Return the block ``val.segmentation``, checked.

    Raises:
        OptionError: for an unknown key (with the nearest known one), a missing key or a value of the wrong type.
    """
    return read_block(SegmentationOptions, dict(block), WHERE)


def read_label_for(
    labels: ImageStore, key: str, size: Sequence[int], what: str, values: NDArray[np.uint8] = AS_STORED
) -> Tensor:
    """Return the label map of an image as it counts.

    Args:
        labels: where label maps are.
        key: of the image.
        size: (height, width) of the image.
        what: names the image in the message.
        values: the class that counts for each stored value, see :mod:`d2sm_plugin.seg.label_values`.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: when there is none, it cannot be read, or its size differs.
    """
    if key not in labels:
        raise DataError(f"{labels.root}: no label for the image '{key}'; every image needs one of the same name")
    label = labels.read_label(key)
    if label.shape != tuple(size):
        raise DataError(
            f"{labels.describe(key)}: the label is {label.shape[1]}x{label.shape[0]}, but {what} is "
            f"{size[1]}x{size[0]}; labels and images must have one size"
        )
    return torch.from_numpy(values[label])


def single_class_remark(matrix: ConfusionMatrix, classes: ClassSet, labels: ImageStore) -> str | None:
    """Return a warning where all labelled pixels of a set are of one class, so that its scores say little."""
    only = matrix.only_class()
    if only is None:
        return None
    return (
        f"{labels.root}: all pixels that count are of the class '{classes.names[only]}'; so it is with masks stored as "
        f"0 and 255, because 255 does not count: store classes as 0, 1, ..."
    )


class SegmentationScorer:
    """Segments the images of a validation as they are restored, and scores the whole set by one confusion matrix.

    It shares nothing with the training: its network is frozen and its own, nothing random is drawn, and the global
    random generators stay as they are. With several processes each adds its share of the images, each image once over
    all of them, and :meth:`finish` sums the counts.

    Args:
        opt: the block ``val.segmentation``, see :class:`SegmentationOptions`.
        device: where the segmentation network runs.

    Raises:
        OptionError: for an option that cannot be used.
        DependencyError: without mmsegmentation.
        CheckpointError: when the checkpoint does not fit the config.
        DataError: when the labels cannot be opened.
    """

    def __init__(self, opt: Mapping[str, Any], device: str | torch.device = "cpu") -> None:
        self.options = read_segmentation_options(opt)
        self.labels = open_images(self.options.labels)
        self.segmentor = build_segmentor(
            self.options.config,
            self.options.checkpoint,
            device,
            amp=bool(self.options.amp),
            test_resize=self.options.test_resize,
        )
        self.classes = choose_classes(self.options.classes, self.segmentor, self.options.checkpoint)
        self.matrix = ConfusionMatrix(len(self.classes), self.classes.ignore, device)
        self._log = logging.getLogger("basicsr")
        if (renumbered := describe(self.segmentor.label_values)) is not None:
            self._log.info(f"{WHERE}: {renumbered}")
        self.start()

    def start(self) -> None:
        """Begin a new set."""
        self.matrix.reset()
        self._pending: list[tuple[str, Tensor, Tensor]] = []
        self._seen: set[str] = set()
        self._latest: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, keys: Sequence[str], restored: Tensor) -> None:
        """Add restored images. They are clipped and rounded to 8 bit first, as in saved files.

        Args:
            keys: one per image.
            restored: (B, 3, H, W) RGB in [0,1], on any device.

        Raises:
            DataError: for a key that was there before, has no label, or whose label has another size or values
                outside the classes.
        """
        if len(keys) != len(restored):
            raise DataError(f"{WHERE}: {len(keys)} keys for {len(restored)} images")
        if not restored.isfinite().all():
            raise DataError(f"{WHERE}: restored images hold values that are no numbers ({', '.join(keys)})")
        images = to_levels(restored.detach(), quantise=True).to(torch.uint8)
        for key, image in zip(keys, images, strict=True):
            if key in self._seen:
                raise DataError(f"{WHERE}: the image '{key}' came twice; names must be unique over the set")
            self._seen.add(key)
            values = self.segmentor.label_values
            label = read_label_for(self.labels, key, image.shape[-2:], "the restored image", values)
            if self._pending and self._pending[0][1].shape != image.shape:
                self._flush()
            self._pending.append((key, image, label))
            if len(self._pending) >= self.options.batch_size:
                self._flush()

    def overlay(self, key: str) -> NDArray[np.uint8] | None:
        """Return the predicted classes laid over an image of the latest :meth:`add`.

        Returns:
            (H, W, 3) uint8 RGB; None where ``overlay`` is off or the image is no longer at hand.
        """
        if not self.options.overlay:
            return None
        if any(key == pending for pending, _, _ in self._pending):
            self._flush()
        if key not in self._latest:
            return None
        image, classes = self._latest[key]
        return overlay(image.permute(1, 2, 0).cpu().numpy(), classes.cpu().numpy(), self.classes.palette)

    def finish(self) -> dict[str, float]:
        """Return the scores of the set in percent; with several processes every one must call it.

        Returns:
            ``mIoU``, ``aAcc``, ``mAcc`` and ``IoU/<class>``; NaN for classes that are neither labelled nor predicted.
        """
        self._flush()
        self._latest = {}
        self.matrix.all_reduce()
        if (remark := single_class_remark(self.matrix, self.classes, self.labels)) is not None:
            self._log.warning(remark)
        scores = self.matrix.scores(self.classes.names)
        by_class = {f"IoU/{name}": value for name, value in scores.iou.items()}
        return {"mIoU": scores.miou, "aAcc": scores.aacc, "mAcc": scores.macc, **by_class}

    def _flush(self) -> None:
        """Segment and count the images that wait; only these stay at hand for overlays."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        predictions = self.segmentor.predict(torch.stack([image for _, image, _ in pending]))
        self._latest = {}
        for (key, image, label), prediction in zip(pending, predictions, strict=True):
            try:
                self.matrix.update(prediction, label.to(prediction.device))
            except DataError as error:
                raise DataError(
                    f"{self.labels.describe(key)}: {error}; expected the classes '{self.classes.name}'"
                ) from None
            self._latest[key] = image, prediction
