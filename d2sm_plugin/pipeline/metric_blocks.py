"""The blocks of ``val.metrics`` at work: metrics of images, and of whole sets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.errors import OptionError
from d2sm_plugin.metrics.set_metrics import SetMetric, as_tensor
from d2sm_plugin.registry import METRIC_REGISTRY, build, lookup


class ImageMetric:
    """A metric of one image, which gets its images by name and as BasicSR gives them: 8-bit (H, W, 3), BGR.

    Args:
        block: ``type``, the name of a registered function, and its arguments. A function without an argument ``img2``
            judges the restored image alone; one with an argument ``key`` gets the name of the image.
        where: path of the block, for messages.
    """

    def __init__(self, block: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.function = lookup(METRIC_REGISTRY, block["type"], f"{where}.type")
        self.arguments = {key: value for key, value in block.items() if key not in ("type", "better")}
        parameters = inspect.signature(self.function).parameters
        self.compares, self.takes_key = "img2" in parameters, "key" in parameters

    def __call__(self, image: np.ndarray, clean: np.ndarray | None, key: str) -> float:
        """Return the value for an image (H, W, 3) uint8 RGB.

        Args:
            image: the image.
            clean: what it is compared with; None where the dataset gives nothing.
            key: name of the image, for messages.

        Raises:
            OptionError: when there is nothing to compare with, or ``crop_border`` leaves nothing of the image.
            ForeignError: for whatever the function raises.
        """
        border = self.arguments.get("crop_border", 0)
        if 2 * border >= min(image.shape[:2]):
            raise OptionError(
                f"{self.where}.crop_border: {border} leaves nothing of the image '{key}' of {image.shape[1]}x"
                f"{image.shape[0]}"
            )
        images: dict[str, Any] = {"img": image[..., ::-1]} | ({"key": key} if self.takes_key else {})
        if self.compares:
            if clean is None:
                raise OptionError(f"{self.where}: the dataset gives no gt to compare with; remove this metric")
            images["img2"] = clean[..., ::-1]
        size = f"{image.shape[1]}x{image.shape[0]}"
        with foreign_code(f"{self.where}: {self.function.__name__} on the image '{key}' of {size}"):
            return float(self.function(**images, **self.arguments))


class MetricOfSet:
    """A metric of a whole set of images, see :mod:`d2sm_plugin.metrics.set_metrics`.

    Args:
        block: ``type``, the name of a registered class, and its arguments.
        where: path of the block, for messages.
        judged: name of the picture that it judges, ``restored`` or ``input``.
    """

    def __init__(self, block: Mapping[str, Any], where: str, judged: str) -> None:
        self.where, self.judged = where, judged
        self.metric: SetMetric = build(METRIC_REGISTRY, {k: v for k, v in block.items() if k != "better"}, where)

    def reset(self) -> None:
        """Begin a new set."""
        self.metric.reset()

    def update(self, key: str, images: Mapping[str, np.ndarray]) -> None:
        """Take the pictures of an image, by name."""
        clear = as_tensor(images["clean"]) if self.metric.compares and "clean" in images else None
        with foreign_code(lambda: f"{self.where}: {type(self.metric).__name__} on the image '{key}'"):
            self.metric.update(key, as_tensor(images[self.judged]), clear)

    def compute(self) -> float:
        """Value for the set, the same on every process."""
        with foreign_code(lambda: f"{self.where}: {type(self.metric).__name__} of a set"):
            return self.metric.compute()
