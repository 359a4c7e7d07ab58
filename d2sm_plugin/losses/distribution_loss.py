"""Distances between the distributions of semantic features, beside D2SM over the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.losses.functional import computing_dtype
from d2sm_plugin.losses.sampled_objective import SampledObjective
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.losses.shorthands import complete
from d2sm_plugin.losses.state_module import StateModule
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.distances import DISTANCES, sliced_wasserstein
from d2sm_plugin.statistics.precision import full_precision

KINDS = (*DISTANCES, "sliced_wasserstein")


@register(LOSS_REGISTRY)
class DistributionLoss(SampledObjective):
    """Distance between the distributions of restored and of clear samples: the relatives of D2SM.

    Extractor and samplers are those of :class:`~d2sm_plugin.losses.d2sm_loss.D2SMLoss`, so that the statistics alone
    differ. The paper names MMD, CORAL, GMMN and GFMN as related work.

    Args:
        distance: ``"mmd_polynomial"``, ``"mmd_gaussian"`` (GMMN), ``"coral"``, ``"moments"`` (GFMN), ``"gram"`` or
            ``"sliced_wasserstein"``; see :mod:`d2sm_plugin.statistics.distances` for formulas and sources.
        extractor: as of D2SMLoss; None takes that of the preset ``"positions"``, and its sampler.
        patches: likewise.
        normalize: scale features to unit length first, as D2SM does.
        projections: random directions of ``"sliced_wasserstein"``, drawn anew at every step.
        seed: of these directions.
        loss_weight: factor on the result.

    Raises:
        OptionError: for an unknown distance, or arguments that cannot be used.
    """

    accumulation = "mean"

    def __init__(
        self,
        distance: str,
        extractor: nn.Module | Mapping[str, Any] | str | None = None,
        patches: Sampler | Mapping[str, Any] | str | None = None,
        normalize: bool = True,
        projections: int = 128,
        seed: int = 0,
        loss_weight: float = 1.0,
    ) -> None:
        if distance not in KINDS:
            raise OptionError(f"DistributionLoss.distance: '{distance}' is unknown{suggest(distance, KINDS)}")
        if isinstance(projections, bool) or not isinstance(projections, int) or projections < 1:
            raise OptionError(f"DistributionLoss.projections: expected a positive integer, got {projections!r}")
        parts = complete(None, extractor=extractor, queue=None, patches=patches)
        super().__init__(parts["extractor"], parts["patches"])
        self.distance, self.normalize, self.loss_weight = distance, normalize, loss_weight
        self.directions = _Directions(projections, seed) if distance == "sliced_wasserstein" else None

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Weighted distance, a scalar, of images (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only.

        Raises:
            ShapeError: for images of wrong shape and, at the first call, of another value range.
        """
        restored_samples, clear_samples = self.samples(restored, clear)
        # Late in a training the sets nearly agree, and their distance is a small difference of large sums.
        with full_precision(restored.device):
            pair = [self._scaled(samples.double()) for samples in (restored_samples, clear_samples)]
            if self.within_images:
                value = torch.stack([self._compare(*images) for images in zip(*pair, strict=True)]).mean()
            else:
                value = self._compare(*(samples.flatten(0, 1) for samples in pair))
            return self.loss_weight * value.to(computing_dtype(restored_samples))

    def extra_repr(self) -> str:
        """Name what is no child module."""
        return f"distance={self.distance}, extractor={type(self.network).__name__}, loss_weight={self.loss_weight}"

    def _scaled(self, samples: Tensor) -> Tensor:
        return nn.functional.normalize(samples, dim=-1) if self.normalize else samples

    def _compare(self, restored: Tensor, clear: Tensor) -> Tensor:
        if self.directions is not None:
            return sliced_wasserstein(restored, clear, self.directions(clear))
        return DISTANCES[self.distance](restored, clear)


class _Directions(StateModule):
    """Random unit vectors, drawn anew at every step of a training; part of its state."""

    host_buffers = ("generator_state",)
    generator_state: Tensor

    def __init__(self, number: int, seed: int) -> None:
        super().__init__()
        self.number = number
        self.register_buffer("generator_state", torch.Generator().manual_seed(seed).get_state())

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (k, D) for features (n, D), of their dtype and device."""
        generator = torch.Generator()
        generator.set_state(self.generator_state)
        drawn = torch.randn(self.number, features.shape[1], generator=generator)
        if self.training and torch.is_grad_enabled():
            self.generator_state.copy_(generator.get_state())
        return nn.functional.normalize(drawn, dim=1).to(features)
