"""Cross-entropy of a frozen segmentation network on restored images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.errors import DataError, OptionError, ShapeError
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.losses.gather import mean_over_processes, world_size
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.seg.label_values import AS_STORED
from d2sm_plugin.seg.segmentor import Segmentor, build_segmentor, choose_classes


@register(LOSS_REGISTRY)
class SegmentationLoss(FrozenNetworkObjective):
    """Cross-entropy between labels and what a frozen segmentation network reads in restored images.

    The cascade of Liu et al. ("Connecting image denoising and high-level vision tasks via deep learning", IEEE TIP
    2020), "Cross Entropy" in Table 1 of the D2SM paper. The gradient goes through the segmentation network into the
    restored images only; it has its own normalisation inside and stays in eval mode and, unless ``amp`` is set, in
    float32. Images are neither clipped nor rounded; logits are resized to the images as the network's config says.

    The loss is the mean over all labelled pixels of the batch, 0 where there is none. Where several processes train, it
    is that of their joint batch: each computes its share, and the mean of the shares is the loss. Pixels whose label
    does not count (255; for CamVid 11 too) have no part in it. The dataset gives labels with ``dataroot_label``. Where
    the config renumbers stored values (``reduce_zero_label``), so does the loss.

    Where the same network then measures the semantic accuracy, the objective has been trained on its own judge.

    Args:
        config: mmseg config: a path, or the name of one that mmseg or this package ships.
        checkpoint: path or URL of its checkpoint.
        classes: ``cityscapes``, ``camvid`` or a file (see docs/segmentation.md); None takes those of the checkpoint.
        amp: run the network in bfloat16 autocast.
        loss_weight: factor on the result.

    Raises:
        DependencyError: without mmsegmentation.
        OptionError: for a config, class set or network that cannot be used.
        CheckpointError: when the checkpoint cannot be read or does not fit the config.
    """

    takes = ("restored", "label")

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        classes: str | None = None,
        amp: bool = False,
        loss_weight: Weight = 1.0,
    ) -> None:
        segmentor = build_segmentor(config, checkpoint, amp=amp)
        super().__init__(segmentor)
        self.network: Segmentor
        self.classes = choose_classes(classes, segmentor, str(checkpoint))
        self.loss_weight = loss_weight
        values = torch.from_numpy(segmentor.label_values.astype("int64"))
        self._label_values = None if np.array_equal(segmentor.label_values, AS_STORED) else values
        self._values_checked = False

    def forward(self, restored: Tensor, label: Tensor) -> Tensor:
        """Return the weighted cross-entropy, a scalar.

        Args:
            restored: images (B, 3, H, W), RGB in [0, 1].
            label: class of every pixel (B, H, W), integers, as stored in label maps.

        Raises:
            ShapeError: when the shapes do not fit.
            DataError: for a label that is neither a class nor a value that does not count. Labels on another device
                than the CPU are checked at the first call only, since a check waits for the device.
            OptionError: for a network with a single output for two classes.
        """
        if restored.ndim != 4 or label.shape != (restored.shape[0], *restored.shape[-2:]):
            raise ShapeError(
                f"SegmentationLoss: expected labels (B, H, W) of restored images (B, 3, H, W), got "
                f"{tuple(label.shape)} and {tuple(restored.shape)}"
            )
        label = self._renumbered(label)
        counts = torch.ones_like(label, dtype=torch.bool)
        for value in self.classes.ignore:
            counts &= label != value
        target = torch.where(counts, label.long(), 0)
        if not self._values_checked or target.device.type == "cpu":
            self._check_values(target)
            self._values_checked = True
        logits = self.network.logits(restored)
        if logits.shape[1] != len(self.classes):
            raise OptionError(
                f"SegmentationLoss.config: the network gives {logits.shape[1]} outputs for {len(self.classes)} "
                f"classes; cross-entropy needs one for each class"
            )
        of_pixels = F.cross_entropy(logits, target, reduction="none")
        total = torch.where(counts, of_pixels, 0.0).sum()
        labelled = mean_over_processes(counts.sum())
        return self.loss_weight * total / labelled.clamp_min(1 / world_size())

    def _renumbered(self, label: Tensor) -> Tensor:
        """Labels as they count; values that no label map can hold stay, for the check of values."""
        if self._label_values is None:
            return label
        self._label_values = self._label_values.to(label.device)
        stored = label.long()
        inside = (stored >= 0) & (stored < len(self._label_values))
        return torch.where(inside, self._label_values[stored.where(inside, 0)], stored)

    def extra_repr(self) -> str:
        """Name what is no child module."""
        return f"classes={self.classes.name} ({len(self.classes)}), loss_weight={self.loss_weight}"

    def _check_values(self, target: Tensor) -> None:
        wrong = (target < 0) | (target >= len(self.classes))
        if wrong.any():
            raise DataError(
                f"SegmentationLoss: label value {target[wrong][0].item()} is none of the {len(self.classes)} classes "
                f"'{self.classes.name}' and not one that is ignored ({', '.join(map(str, self.classes.ignore))}); "
                f"check train.*_opt.classes, or prepare the labels again"
            )
