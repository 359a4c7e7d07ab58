"""D2SM on several feature maps of one network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from d2sm_plugin.argument_types import BlockOf, Weight
from d2sm_plugin.errors import OptionError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.interface import HasFeatureMaps, has_feature_maps
from d2sm_plugin.losses.d2sm_loss import D2SMLoss
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.losses.image_check import ImageCheck
from d2sm_plugin.losses.queue_sampler import QueueSampler
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.losses.spatial_sampler import SpatialSampler
from d2sm_plugin.losses.state_module import not_compiled
from d2sm_plugin.registry import FEATURE_REGISTRY, LOSS_REGISTRY, register


@register(LOSS_REGISTRY)
class MultiLayerD2SMLoss(FrozenNetworkObjective):
    """Weighted sum of the divergences of :class:`D2SMLoss` over the positions of several feature maps (ours).

    One pass of the network makes all maps. Each has a sampler and a queue of its own, which are part of the state.

    Args:
        extractor: as of D2SMLoss; it must have a method ``feature_maps``, as TimmFeatures and VGG19Features have.
        layers: of the maps: strides, such as ``[8, 16, 32]``, or names, such as ``[conv3_4, conv4_4]`` of VGG19.
        layer_weights: factor on the divergence of each map; None means 1 for all.
        queue: None, or what each map has: a size, an option block, or a :class:`QueueSampler`, of which each gets a
            copy.
        patches: sampler of positions that each map has, its name, its option block, or one to be copied.
        divergence: see D2SMLoss.
        reduction: see D2SMLoss.
        loss_weight: factor on the sum.
        kernel: see D2SMLoss.

    Attributes:
        terms: one objective for each map, with its ``queue``, ``patches`` and ``last``.

    Raises:
        OptionError: for arguments that cannot be used or combined.

    >>> import timm
    >>> loss = MultiLayerD2SMLoss(timm.create_model("test_resnet"), layers=[8, 16], queue=512, loss_weight=1e-3)
    >>> clear = torch.rand(2, 3, 96, 96)
    >>> restored = (clear + 0.1 * torch.randn_like(clear)).requires_grad_()
    >>> loss(restored, clear).backward()
    >>> [term.last["samples"] for term in loss.terms]
    [288, 72]
    """

    takes = ("restored", "gt")
    joint = True  # features of all processes make one batch

    def __init__(
        self,
        extractor: Annotated[nn.Module | Mapping[str, Any] | str, BlockOf(FEATURE_REGISTRY)],
        layers: Sequence[int | str],
        layer_weights: Sequence[Weight] | None = None,
        queue: Annotated[QueueSampler | Mapping[str, Any] | int | None, BlockOf(LOSS_REGISTRY, QueueSampler)] = None,
        patches: Annotated[Sampler | Mapping[str, Any] | str, BlockOf(LOSS_REGISTRY, SpatialSampler)] = "spatial",
        divergence: str = "kl",
        reduction: Literal["sum", "mean"] = "sum",
        loss_weight: Weight = 1.0,
        kernel: Literal["cosine", "centred_cosine"] = "cosine",
    ) -> None:
        super().__init__(build_extractor(extractor, "MultiLayerD2SMLoss.extractor"))
        if not has_feature_maps(self.network):
            raise OptionError(
                f"MultiLayerD2SMLoss.extractor: {type(self.network).__name__} has no method feature_maps; choose "
                f"TimmFeatures or VGG19Features"
            )
        if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
            raise OptionError(
                f"MultiLayerD2SMLoss.layers: expected different layers, for example [8, 16], got {layers}"
            )
        self.layers = list(layers)
        self.layer_weights = [1.0] * len(layers) if layer_weights is None else [float(w) for w in layer_weights]
        if len(self.layer_weights) != len(layers) or not any(self.layer_weights) or min(self.layer_weights) < 0:
            raise OptionError(
                f"MultiLayerD2SMLoss.layer_weights: expected {len(layers)} numbers from 0, not all 0, one for each of "
                f"layers, got {layer_weights}"
            )
        self.loss_weight = loss_weight
        self.terms = nn.ModuleList(
            _OfMap(
                _Given(), copy.deepcopy(queue), copy.deepcopy(patches), divergence, reduction=reduction, kernel=kernel
            )
            for _ in layers
        )
        self._check = ImageCheck()

    @property
    def accumulation(self) -> str:
        """That of the objectives of the maps."""
        return cast(_OfMap, self.terms[0]).accumulation

    @property
    def filling(self) -> bool:
        """True while a queue does not hold all its samples yet."""
        return any(term.filling for term in self.terms)

    @not_compiled
    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Weighted sum, a scalar, of images (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only.

        Raises:
            OptionError: for a layer that the extractor does not have.
            ShapeError: for images of wrong shape and, at the first call, of another value range.
        """
        self._check(restored, clear)
        feature_maps = cast(HasFeatureMaps, self.network).feature_maps
        maps = feature_maps(restored, self.layers)
        with torch.no_grad():
            clear_maps = feature_maps(clear.detach(), self.layers)
        values = [term(*pair) for term, *pair in zip(self.terms, maps, clear_maps, strict=True)]
        weighted = [weight * value for weight, value in zip(self.layer_weights, values, strict=True)]
        return self.loss_weight * torch.stack(weighted).sum()

    def extra_repr(self) -> str:
        """Name what is no child module."""
        layers = dict(zip(self.layers, self.layer_weights, strict=True))
        return f"extractor={type(self.network).__name__}, layers={layers}, loss_weight={self.loss_weight}"


class _Given(nn.Module):
    """An extractor whose feature map is what it is given."""

    def feature_map(self, maps: Tensor) -> Tensor:
        return maps


class _OfMap(D2SMLoss):
    """D2SM of maps (B, C, h, w) in place of images."""

    def samples(self, restored: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
        return self.gathered(self.patches(self.network, restored, clear))
