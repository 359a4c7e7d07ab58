"""Metrics of torchmetrics by name: LPIPS, DISTS, FID, KID, CLIP-IQA and every other of its image metrics."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from d2sm_plugin.errors import DataError, DependencyError, OptionError, suggest
from d2sm_plugin.extras import import_extra
from d2sm_plugin.registry import METRIC_REGISTRY, register

#: Short names of the field -> torchmetrics' own.
SHORT = {
    "LPIPS": "LearnedPerceptualImagePatchSimilarity",
    "DISTS": "DeepImageStructureAndTextureSimilarity",
    "FID": "FrechetInceptionDistance",
    "KID": "KernelInceptionDistance",
    "CLIP-IQA": "CLIPImageQualityAssessment",
}
_PACKAGES = ("torchmetrics.image", "torchmetrics.multimodal")


@register(METRIC_REGISTRY)
class TorchMetric:
    """A metric of torchmetrics over a set of images.

    Weights come as torchmetrics loads them, which for most of these means a download at the first use.

    Args:
        metric: ``LPIPS``, ``DISTS``, ``FID``, ``KID``, ``CLIP-IQA``, or the name of a class of ``torchmetrics.image``.
        arguments: of that class, for example ``{net_type: vgg}``. ``normalize: true``, which says that images are in
            [0, 1], is added where the class knows it.

    Raises:
        OptionError: for an unknown name, or arguments that the class refuses.
        DependencyError: when torchmetrics, what it needs for this metric, or the weights cannot be had.
    """

    def __init__(self, metric: str, arguments: dict[str, Any] | None = None) -> None:
        import_extra("torchmetrics", f"val.metrics: {metric}")
        target = _class_of(metric)
        known = inspect.signature(target).parameters
        settings: dict[str, Any] = {"normalize": True} if "normalize" in known else {}
        if "data_range" in known:
            settings["data_range"] = 1.0
        settings |= arguments or {}
        self.name = metric
        try:
            self.metric = target(**settings)
        except (TypeError, ValueError) as error:
            raise OptionError(f"TorchMetric {metric}: {' '.join(str(error).split())}") from error
        except Exception as error:  # missing packages and weights are many kinds of errors
            reason = " ".join(str(error).split())[:300]
            raise DependencyError(f"TorchMetric {metric} cannot be set up here ({reason})") from error
        parameters = inspect.signature(self.metric.update).parameters
        self.by_kind = "real" in parameters
        self.compares = len(parameters) > 1

    @staticmethod
    def better_with(arguments: Mapping[str, Any]) -> str:
        """Return ``"higher"`` or ``"lower"``, as the class of torchmetrics says; it is not built for that."""
        import_extra("torchmetrics", f"val.metrics: {arguments['metric']}")
        return "lower" if _class_of(arguments["metric"]).higher_is_better is False else "higher"

    def reset(self) -> None:
        """Forget all images."""
        self.metric.reset()

    def update(self, key: str, image: Tensor, clear: Tensor | None) -> None:
        """Take an image (1, 3, H, W) and the clear one, floats in [0, 1].

        Raises:
            DataError: when there is none and the metric compares.
        """
        if self.compares and clear is None:
            raise DataError(f"TorchMetric {self.name}: the data set gives no gt for '{key}' to compare with")
        with torch.inference_mode():
            if self.by_kind:
                self.metric.update(image, real=False)
                self.metric.update(clear, real=True)
            elif self.compares:
                self.metric.update(image, clear)
            else:
                self.metric.update(image)

    def compute(self) -> float:
        """Value for all images of all processes; of several values, such as mean and deviation, the first."""
        with torch.inference_mode():
            value = self.metric.compute()
        return float(value[0] if isinstance(value, (tuple, list)) else value)


def _class_of(name: str) -> type[Any]:
    for package in _PACKAGES:
        target = getattr(importlib.import_module(package), SHORT.get(name, name), None)
        if inspect.isclass(target):
            return target
    names = [*SHORT, *importlib.import_module(_PACKAGES[0]).__all__]
    raise OptionError(f"TorchMetric: torchmetrics has no image metric '{name}'{suggest(name, names)}")
