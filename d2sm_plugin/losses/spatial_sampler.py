"""Positions of a feature map as the samples of an image; beyond the paper."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from d2sm_plugin.argument_types import Count, NonNegative
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.features.interface import Extractor, feature_map_of
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES


@register(LOSS_REGISTRY)
class SpatialSampler(Sampler):
    """Every position of a late feature map is one sample, row by row from the top left one.

    A position sees a window of the image (its receptive field), so this is internal probability (paper, eq. 9) with
    one pass of the extractor over the whole image instead of one for every window. It is not in the paper.

    Args:
        max_positions: draw so many of the positions at random at every call, the same of restored and clear image;
            None takes all.
        scope: ``"batch"`` pools the positions of all images (and of the queue); ``"image"`` compares only positions
            of one image with each other.
        seed: of the random choice.

    Raises:
        OptionError: for a scope or number that cannot be used.

    >>> from d2sm_plugin.features import build_extractor
    >>> block = {"type": "TimmFeatures", "model": "test_resnet", "weights": None}
    >>> extractor, image = build_extractor(block, "extractor"), torch.rand(2, 3, 96, 128)
    >>> restored, clear = SpatialSampler(max_positions=None)(extractor, image, image)
    >>> restored.shape == clear.shape, restored.shape[:2]  # 3 x 4 positions of a map of stride 32
    (True, torch.Size([2, 12]))
    """

    def __init__(
        self, max_positions: Count | None = 256, scope: Literal["batch", "image"] = "batch", seed: NonNegative = 0
    ) -> None:
        super().__init__(max_positions, scope, seed)

    def forward(self, extractor: Extractor, restored: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, C) of positions of restored images, with their graph, and of clear ones, without.

        Raises:
            OptionError: when the extractor has no method ``feature_map``.
            ShapeError: when its map is not (B, C, h, w), or has too few positions to be compared with
                each other.
        """
        feature_map = feature_map_of(extractor, "SpatialSampler")
        maps = feature_map(restored)
        if maps.ndim != 4:
            raise ShapeError(f"SpatialSampler: expected a feature map (B, C, h, w), got the shape {tuple(maps.shape)}")
        height, width = maps.shape[-2:]
        if self.scope == "image" and height * width < LEAST_SAMPLES:
            raise ShapeError(
                f"SpatialSampler.scope: scope 'image' compares positions of one image, at least {LEAST_SAMPLES}, and "
                f"its feature map is {height}x{width}; set scope 'batch', or train on larger crops"
            )
        chosen, positions = self.choose(height * width), None
        if len(chosen) < height * width:
            positions = torch.tensor(chosen, pin_memory=maps.is_cuda)
            positions = positions.to(maps.device, non_blocking=True)  # does not wait for the network that made the maps
        with torch.no_grad():
            clear_maps = feature_map(clear)
        return self.features(maps, positions), self.features(clear_maps, positions)

    @staticmethod
    def features(maps: Tensor, positions: Tensor | None) -> Tensor:
        """Feature vectors (B, P, C) at positions (P), or all, of maps (B, C, h, w)."""
        vectors = maps.flatten(2)
        return (vectors if positions is None else vectors.index_select(2, positions)).transpose(1, 2)
