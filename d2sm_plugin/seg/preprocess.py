"""From images in [0,1] to what a segmentation network takes, and back to the image's own size."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError, ShapeError

#: Steps of a config's test pipeline that read or pack, and leave the image as it is.
_NOT_GEOMETRY = ("LoadImageFromFile", "LoadImageFromNDArray", "LoadAnnotations", "PackSegInputs")


@dataclass(frozen=True)
class Padding:
    """Padding of an image: rows and columns added below and to the right."""

    height: int
    width: int
    below: int
    right: int


class Preprocessor(nn.Module):
    """Preparation of images in one go, on the device, as mmseg's ``SegDataPreProcessor`` does it at test time.

    The arithmetic is the same, operation for operation, so that the network sees the same floats.

    Args:
        block: ``model.data_preprocessor`` of an mmseg config. mmseg reads files as BGR: with ``bgr_to_rgb`` its
            networks take RGB, without it BGR.

    Raises:
        OptionError: for a preprocessor that is no ``SegDataPreProcessor``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, block: Mapping[str, Any]) -> None:
        super().__init__()
        if block.get("type", "SegDataPreProcessor") != "SegDataPreProcessor":
            raise OptionError(
                f"model.data_preprocessor.type: '{block['type']}'; only 'SegDataPreProcessor' is supported"
            )
        self.takes_rgb = bool(block.get("bgr_to_rgb", False) or block.get("rgb_to_bgr", False))
        self.pad_value = float(block.get("pad_val", 0))
        padding = block.get("test_cfg") or {}
        self.size: Sequence[int] | None = padding.get("size")
        self.size_divisor: int | None = padding.get("size_divisor")
        mean = block.get("mean")
        self.normalises = mean is not None
        for name, values in (("mean", mean or (0.0,) * 3), ("std", block.get("std") or (1.0,) * 3)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Padding]:
        """Normalise and pad.

        Args:
            images: (B, 3, H, W) RGB, float32 in [0, 255]; gradients pass.

        Returns:
            (B, 3, H', W') in the network's channel order, and where the image lies in it.
        """
        if not self.takes_rgb:
            images = images.flip(1)
        if self.normalises:
            images = (images - self.mean) / self.std
        height, width = images.shape[-2:]
        below, right = self._missing(height, width)
        if below or right:
            images = F.pad(images, (0, right, 0, below), value=self.pad_value)
        return images, Padding(height, width, below, right)

    def _missing(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return max(self.size[-2] - height, 0), max(self.size[-1] - width, 0)
        divisor = self.size_divisor or 1
        return -height % divisor, -width % divisor


def to_levels(images: Tensor, quantise: bool) -> Tensor:
    """Return images on the scale of 8-bit files.

    Args:
        images: (B, 3, H, W), floats in [0,1], or uint8.
        quantise: clip and round to whole levels, as saving to PNG does.

    Returns:
        float32 in [0, 255].

    Raises:
        ShapeError: when these are not RGB images.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"expected RGB images (B, 3, H, W), got a tensor of shape {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float()
    if not images.is_floating_point():
        raise ShapeError(f"expected images as floats in [0,1] or as uint8, got {images.dtype}")
    levels = images.float()
    return levels.clamp(0, 1).mul_(255).round_() if quantise else levels * 255


class TestResize:
    """The geometry of a config's ``test_pipeline`` (usually ``Resize``), run by mmseg's own transforms.

    Args:
        pipeline: the config's ``test_pipeline``.
    """

    __test__ = False  # not a test case, whatever its name says

    def __init__(self, pipeline: Sequence[Mapping[str, Any]]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # its remarks on optional parts that are not installed
            import mmseg.datasets  # noqa: F401
        from mmseg.registry import TRANSFORMS

        self.steps: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
            TRANSFORMS.build(dict(step)) for step in pipeline if step["type"] not in _NOT_GEOMETRY
        ]

    def __call__(self, levels: Tensor) -> Tensor:
        """Return (B, 3, H', W') float32 RGB in [0, 255], on the device of ``levels`` (B, 3, H, W)."""
        if not self.steps:
            return levels
        whole = bool((levels == levels.round()).all()) and bool(levels.aminmax().max <= 255)
        rows = [self._resized(image.permute(1, 2, 0).cpu().numpy(), whole) for image in levels]
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).to(levels)

    def _resized(self, image: np.ndarray, whole: bool) -> np.ndarray:
        bgr = np.ascontiguousarray(image[..., ::-1].astype(np.uint8 if whole else np.float32))
        results: dict[str, Any] = {"img": bgr, "img_shape": bgr.shape[:2], "ori_shape": bgr.shape[:2]}
        for step in self.steps:
            results = step(results)
        return np.ascontiguousarray(results["img"][..., ::-1])
