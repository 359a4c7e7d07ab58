"""Semantic divergence of a set of restored images, the quantity that D2SM lowers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.features.build import build_extractor
from d2sm_plugin.losses.functional import check_options, semantic_divergence
from d2sm_plugin.losses.spatial_sampler import SpatialSampler
from d2sm_plugin.metrics.set_metrics import of_all_processes
from d2sm_plugin.registry import METRIC_REGISTRY, register
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES


@register(METRIC_REGISTRY)
class SemanticDivergence:
    """Divergence between the neighbour statistics of restored and clear images (paper, eq. 2 to 5), over a whole set.

    Features are taken at the same positions of every image and of its clear image, evenly spread over the feature map;
    those of all images together are the samples. The mean over the samples is reported.

    Args:
        extractor: option block or name of a frozen ImageNet network with a feature map.
        positions: of an image, at most.
        kind: see :func:`~d2sm_plugin.losses.functional.semantic_divergence`.

    Raises:
        OptionError: for an unknown extractor or kind.
    """

    better = "lower"
    compares = True

    def __init__(
        self, extractor: Mapping[str, Any] | str = "tf_efficientnet_lite0", positions: Count = 16, kind: str = "kl"
    ) -> None:
        check_options(kind, "mean")
        self.extractor = build_extractor(extractor, "SemanticDivergence.extractor").eval()
        self.sampler = SpatialSampler(max_positions=None)
        self.positions, self.kind = positions, kind
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._features: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, key: str, image: Tensor, clear: Tensor | None) -> None:
        """Take an image (1, 3, H, W) and the clear one of the same size, floats in [0, 1].

        Raises:
            DataError: when there is none.
        """
        if clear is None:
            raise DataError(f"SemanticDivergence: the data set gives no gt for '{key}' to compare with")
        with torch.inference_mode():
            pair = [features[0] for features in self.sampler(self.extractor, image, clear)]
        count = len(pair[0])
        chosen = torch.linspace(0, count - 1, min(count, self.positions)).round().long()
        self._features[key] = (pair[0][chosen], pair[1][chosen])

    def compute(self) -> float:
        """Divergence of all images of all processes.

        Raises:
            OptionError: for fewer than three samples, whose divergence is 0 whatever they are.
        """
        features = of_all_processes(self._features)
        restored, clear = (torch.cat([pair[side] for pair in features.values()]) for side in (0, 1))
        if len(restored) < LEAST_SAMPLES:
            raise OptionError(
                f"SemanticDivergence: {len(restored)} sample(s) of {len(features)} image(s); it takes "
                f"{LEAST_SAMPLES} at least: raise positions, or take larger images"
            )
        with torch.inference_mode():
            return semantic_divergence(restored, clear, self.kind, "mean").item()
