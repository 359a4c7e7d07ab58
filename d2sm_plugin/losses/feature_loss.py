"""Distance between images in the feature space of a frozen extractor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.argument_types import BlockOf, Weight
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.interface import feature_map_of
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.registry import FEATURE_REGISTRY, LOSS_REGISTRY, register

_CRITERIA = {"l1": F.l1_loss, "l2": F.mse_loss}


@register(LOSS_REGISTRY)
class FeatureLoss(FrozenNetworkObjective):
    """Mean distance of each restored image's features to those of its clear one (DICGAN's perceptual objective).

    BasicSR's ``PerceptualLoss`` is for VGG alone; this one takes any extractor, such as ``LightCNN9Features``. Unlike
    :class:`D2SMLoss` it compares images one by one, not their statistics. With ``spatial`` it is the perceptual loss of
    Johnson et al. (ECCV 2016), position by position: the plain counterpart of D2SM with a :class:`SpatialSampler`.

    Args:
        extractor: module that maps images (B, 3, H, W), RGB in [0, 1], to features (B, D), its name or an option block.
        criterion: ``"l1"`` or ``"l2"``, mean over all values.
        loss_weight: factor on the result.
        spatial: compare feature maps (B, C, h, w), from the extractor's ``feature_map``, instead of features of whole
            images, which most extractors average over the positions.

    Raises:
        OptionError: for an unknown criterion, an extractor that cannot be built, or, with ``spatial``, one without
            feature maps.
    """

    takes = ("restored", "gt")

    def __init__(
        self,
        extractor: Annotated[nn.Module | Mapping[str, Any] | str, BlockOf(FEATURE_REGISTRY)],
        criterion: Literal["l1", "l2"] = "l1",
        loss_weight: Weight = 1.0,
        spatial: bool = False,
    ) -> None:
        if criterion not in _CRITERIA:
            raise OptionError(f"FeatureLoss.criterion: '{criterion}' is unknown{suggest(criterion, _CRITERIA)}")
        super().__init__(build_extractor(extractor, "FeatureLoss.extractor"))
        if spatial:
            feature_map_of(self.network, "FeatureLoss.spatial")
        self.criterion, self.loss_weight, self.spatial = criterion, loss_weight, spatial

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted distance of images (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only."""
        extract = feature_map_of(self.network, "FeatureLoss.spatial") if self.spatial else self.network
        with torch.no_grad():
            target = extract(clear)
        return self.loss_weight * _CRITERIA[self.criterion](extract(restored), target)
