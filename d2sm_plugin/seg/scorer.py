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
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.errors import DataError
from d2sm_plugin.seg.label_values import describe
from d2sm_plugin.seg.overlay import overlay
from d2sm_plugin.seg.preprocess import to_levels
from d2sm_plugin.seg.scored_set import ScoredSet, Segmented, read_label_for
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


class SegmentationScorer:
    """Scorer of a validation: segments images as they are restored, and counts the whole set in one confusion matrix.

    It shares nothing with the training: its network is frozen and its own, nothing random is drawn, and the global
    random generators stay as they are. With several processes each adds its share of the images, each image once over
    all of them, and :meth:`finish` sums the counts.

    Args:
        opt: the block ``val.segmentation``, as its typed model or as it stands in an option file.
        device: where the segmentation network runs.

    Raises:
        OptionError: for an option that cannot be used.
        DependencyError: without mmsegmentation.
        CheckpointError: when the checkpoint does not fit the config.
        DataError: when the labels cannot be opened.
    """

    def __init__(self, opt: SegmentationOptions | Mapping[str, Any], device: str | torch.device = "cpu") -> None:
        self.options = opt if isinstance(opt, SegmentationOptions) else read_segmentation_options(opt)
        self.labels = open_images(self.options.labels)
        self.segmentor = build_segmentor(
            self.options.config,
            self.options.checkpoint,
            device,
            amp=bool(self.options.amp),
            test_resize=self.options.test_resize,
        )
        self.classes = choose_classes(self.options.classes, self.segmentor, self.options.checkpoint)
        if (renumbered := describe(self.segmentor.label_values)) is not None:
            logging.getLogger("basicsr").info(f"{WHERE}: {renumbered}")
        self.start()

    def start(self) -> None:
        """Begin a new set."""
        self.scored = ScoredSet(
            self.segmentor, self.classes, self.labels.root, self.labels.describe, self.options.batch_size
        )
        self._seen: set[str] = set()
        self._latest: dict[str, Segmented] = {}
        #: image of this process -> pixels of intersection and of union by class, (2, C)
        self.by_image: dict[str, NDArray[np.int64]] = {}

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
            self._keep(self.scored.add(key, image, label))

    def overlay(self, key: str) -> NDArray[np.uint8] | None:
        """Return the predicted classes laid over an image of the latest :meth:`add`.

        Returns:
            (H, W, 3) uint8 RGB; None where ``overlay`` is off or the image is no longer at hand.
        """
        if not self.options.overlay:
            return None
        if self.scored.is_waiting(key):
            self._keep(self.scored.flush())
        if key not in self._latest:
            return None
        segmented = self._latest[key]
        image = segmented.image.permute(1, 2, 0).cpu().numpy()
        return overlay(image, segmented.classes.cpu().numpy(), self.classes.palette)

    def finish(self) -> dict[str, float]:
        """Return the scores of the set in percent; with several processes every one must call it.

        Returns:
            ``mIoU``, ``aAcc``, ``mAcc`` and ``IoU/<class>``; NaN for classes that are neither labelled nor predicted.
        """
        self._keep(self.scored.flush())
        self._latest = {}
        scores = self.scored.scores()
        by_class = {f"IoU/{name}": value for name, value in scores.iou.items()}
        return {"mIoU": scores.miou, "aAcc": scores.aacc, "mAcc": scores.macc, **by_class}

    def _keep(self, segmented: Sequence[Segmented]) -> None:
        """Keep the counts of images, and those that were segmented last at hand for overlays."""
        if segmented:
            self._latest = {image.key: image for image in segmented}
            self.by_image |= {image.key: image.counts for image in segmented}
