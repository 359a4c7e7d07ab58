"""Distance between images in the feature space of a frozen extractor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.features import build_extractor
from d2sm_plugin.registry import register

_CRITERIA = {"l1": F.l1_loss, "l2": F.mse_loss}


@register(LOSS_REGISTRY)
class FeatureLoss(nn.Module):
    """Mean distance of each restored image's features to those of its clear one (DICGAN's perceptual objective).

    BasicSR's ``PerceptualLoss`` is for VGG alone; this one takes any extractor, such as ``LightCNN9Features``. Unlike
    :class:`D2SMLoss` it compares images one by one, not their statistics.

    Args:
        extractor: module that maps images (B, 3, H, W), RGB in [0, 1], to features (B, D), or an option block.
        criterion: ``"l1"`` or ``"l2"``, mean over all values.
        loss_weight: factor on the result.

    Raises:
        OptionError: for an unknown criterion or an extractor that cannot be built.
    """

    takes = ("restored", "gt")

    def __init__(
        self, extractor: nn.Module | Mapping[str, Any], criterion: str = "l1", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if criterion not in _CRITERIA:
            raise OptionError(f"FeatureLoss.criterion: '{criterion}' is unknown{suggest(criterion, _CRITERIA)}")
        self.criterion, self.loss_weight = criterion, loss_weight
        # In a tuple, so that the frozen network is neither among the parameters nor in the state_dict.
        self._extractor = (build_extractor(extractor, "FeatureLoss.extractor").eval().requires_grad_(False),)

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted distance of images (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only."""
        (extractor,) = self._extractor
        target = extractor(clear.detach()).detach()
        return self.loss_weight * _CRITERIA[self.criterion](extractor(restored), target)

    def _apply(self, fn: Any, recurse: bool = True) -> FeatureLoss:
        """Move the extractor along with the objective."""
        for extractor in self._extractor:
            extractor._apply(fn)
        return super()._apply(fn, recurse)
