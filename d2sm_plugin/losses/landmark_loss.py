"""Objectives that look at facial landmarks: attention to them, and heatmaps of a frozen network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.argument_types import BlockOf, Weight
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.registry import ARCH_REGISTRY, LOSS_REGISTRY, build, register
from d2sm_plugin.weights import load_weights


@register(LOSS_REGISTRY)
class LandmarkAttentionLoss(nn.Module):
    """Mean absolute difference of images, times how near a landmark each pixel is (PFSR, BMVC 2019).

    The nearness is the highest of all heatmaps there, enlarged to the images. PFSR takes heatmaps that a network finds
    in the clear face; these are the labels'.

    Args:
        loss_weight: factor on the mean.
    """

    takes = ("restored", "gt", "gt_heatmaps")

    def __init__(self, loss_weight: Weight = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, restored: Tensor, clear: Tensor, heatmaps: Tensor) -> Tensor:
        """Return the weighted mean.

        Args:
            restored: (B, C, H, W).
            clear: (B, C, H, W).
            heatmaps: (B, P, h, w), [0, 1].

        Raises:
            ShapeError: when the images differ in shape, or there are not as many faces in ``heatmaps``.
        """
        if restored.shape != clear.shape or heatmaps.ndim != 4 or len(heatmaps) != len(clear):
            raise ShapeError(
                f"LandmarkAttentionLoss: expected images of one shape and as many heatmaps (B, P, h, w), got "
                f"{tuple(restored.shape)}, {tuple(clear.shape)} and {tuple(heatmaps.shape)}"
            )
        near = heatmaps.amax(dim=1, keepdim=True)
        near = F.interpolate(near, clear.shape[-2:], mode="bilinear", align_corners=False)
        return self.loss_weight * (near * (restored - clear).abs()).mean()


@register(LOSS_REGISTRY)
class HeatmapLoss(FrozenNetworkObjective):
    """Mean squared difference of the landmark heatmaps that a frozen network finds in restored and clear faces.

    Args:
        network: the network, or its option block, for example ``{"type": "StackedHourglass"}``; its output is named
            ``heatmaps``.
        weights: path of its checkpoint; None gives random weights, only for tests.
        loss_weight: factor on the mean.

    Raises:
        OptionError: for a network that cannot be built.
        CheckpointError: when the weights cannot be read or do not fit.
    """

    takes = ("restored", "gt")

    def __init__(
        self,
        network: Annotated[nn.Module | Mapping[str, Any], BlockOf(ARCH_REGISTRY)],
        weights: str | Path | None,
        loss_weight: Weight = 1.0,
    ) -> None:
        finder = network if isinstance(network, nn.Module) else build(ARCH_REGISTRY, network, "HeatmapLoss.network")
        if weights is not None:
            load_weights(finder, weights)
        super().__init__(finder)
        self.loss_weight = loss_weight

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted mean for faces (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only."""
        with torch.no_grad():
            wanted = self.network(clear)["heatmaps"]
        return self.loss_weight * F.mse_loss(self.network(restored)["heatmaps"], wanted)
