"""Contextual loss: restored features should find all features of the clear image, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2sm_plugin.argument_types import BlockOf, Count, NonNegative, Weight
from d2sm_plugin.errors import OptionError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.interface import feature_map_of
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.losses.image_check import ImageCheck
from d2sm_plugin.losses.spatial_sampler import SpatialSampler
from d2sm_plugin.registry import FEATURE_REGISTRY, LOSS_REGISTRY, register
from d2sm_plugin.statistics.precision import full_precision

_CHUNK = 1024  # restored positions that are compared with all clear ones at a time


@register(LOSS_REGISTRY)
class ContextualLoss(FrozenNetworkObjective):
    """Contextual loss with cosine distance (Mechrez et al.: "The contextual loss", ECCV 2018).

    Both images are sets of feature vectors, one for each position of a feature map, without regard to where. The mean
    of the clear vectors, over batch and positions, is taken from all vectors, which are then scaled to unit length. For
    an image with restored vectors i_a and clear vectors t_b::

        d_ab  = (1 - cos(i_a, t_b)) / 2
        d'_ab = d_ab / (min_b d_ab + epsilon)
        CX_ab = softmax over b of (1 - d'_ab) / bandwidth
        CX    = mean over b of (max over a of CX_ab)
        loss  = mean over the images of -log CX

    which are the roles of the authors' code: every restored vector spreads its attention over the clear ones, and every
    clear vector must be found. Training codes with the two images exchanged give another value.

    Memory: an image's pairs are compared 1024 restored positions at a time and computed again in the backward pass, so
    beside the feature maps there are never more than six float32 arrays of 1024 x ``max_positions``: 100 MiB with the
    default, whatever the batch (measured; a process on a CPU may hold on to more that it has freed).

    Args:
        extractor: module with a method ``feature_map``, from images (B, 3, H, W) in [0, 1] to maps (B, C, h, w), its
            name or an option block: ``TimmFeatures`` (see its ``stride``), ``VGG19Features`` with a convolutional
            layer. The authors use conv3_2 and conv4_2 of VGG19; two layers are two objectives.
        bandwidth: h > 0; the authors' configurations have 0.5.
        max_positions: of larger maps so many positions are drawn at random at every call, the same of both images (the
            authors' 65 * 65). None takes all.
        epsilon: added to the smallest distance.
        seed: of the random choice. The state of its generator is in the ``state_dict``.
        loss_weight: factor on the result.

    Raises:
        OptionError: for arguments that cannot be used, or an extractor without feature maps.
    """

    takes = ("restored", "gt")

    def __init__(
        self,
        extractor: Annotated[nn.Module | Mapping[str, Any] | str, BlockOf(FEATURE_REGISTRY)],
        bandwidth: float = 0.5,
        max_positions: Count | None = 65 * 65,
        epsilon: float = 1e-5,
        seed: NonNegative = 0,
        loss_weight: Weight = 1.0,
    ) -> None:
        super().__init__(build_extractor(extractor, "ContextualLoss.extractor"))
        feature_map_of(self.network, "ContextualLoss.extractor")
        for name, value in (("bandwidth", bandwidth), ("epsilon", epsilon)):
            if not value > 0:
                raise OptionError(f"ContextualLoss.{name}: expected a number above 0, got {value!r}")
        self.sampler = SpatialSampler(max_positions, "batch", seed)
        self.bandwidth, self.epsilon, self.loss_weight = bandwidth, epsilon, loss_weight
        self._check = ImageCheck()

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted loss, a scalar.

        Args:
            restored: images (B, 3, H, W) in [0, 1], which they may leave a little.
            clear: images (B, 3, H, W) in [0, 1]; constants.

        Raises:
            ShapeError: for images of wrong shape and, at the first call, of another value range.
        """
        self._check(restored, clear)
        generated, target = self.sampler(self.network, restored, clear.detach())
        with full_precision(restored.device):
            generated, target = _at_least_float(generated), _at_least_float(target)
            mean = target.mean((0, 1))
            generated, target = F.normalize(generated - mean, dim=2), F.normalize(target - mean, dim=2)
            similarities = [self._similarity(*pair) for pair in zip(generated, target, strict=True)]
            return self.loss_weight * -torch.stack(similarities).log().mean()

    def extra_repr(self) -> str:
        """Name what is no child module."""
        return f"extractor={type(self.network).__name__}, bandwidth={self.bandwidth}, loss_weight={self.loss_weight}"

    def _similarity(self, generated: Tensor, target: Tensor) -> Tensor:
        """CX of one image from unit vectors (P, C)."""
        best = [
            checkpoint(_best, rows, target, self.bandwidth, self.epsilon, use_reentrant=False, preserve_rng_state=False)
            for rows in generated.split(_CHUNK)
        ]
        return torch.stack(best).amax(0).mean()


def _best(rows: Tensor, target: Tensor, bandwidth: float, epsilon: float) -> Tensor:
    """Return for each target vector (Q, C) the largest CX_ab that any of the restored vectors (P, C) has: (Q)."""
    with full_precision(rows.device):  # again, for the computation within the backward pass
        distance = (1 - rows @ target.T) / 2
        relative = distance / (distance.amin(1, keepdim=True) + epsilon)
        return ((1 - relative) / bandwidth).softmax(1).amax(0)


def _at_least_float(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()
