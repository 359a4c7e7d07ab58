"""Objectives on sets of samples: what D2SM and the distances it is compared with have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.losses.gather import check_equal_rows, gather_rows
from d2sm_plugin.losses.image_check import ImageCheck
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.losses.shorthands import as_sampler


class SampledObjective(FrozenNetworkObjective):
    """Base of objectives that compare samples of restored images with those of clear ones.

    Under ``torch.distributed``, and in training mode, the features of all processes form one joint batch, in the
    order of ranks: every process computes the same value, and a network in DistributedDataParallel gets the gradient
    of a single process with the joint batch. All processes must then hold batches of one size.

    Args:
        extractor: a module that maps images (B, 3, H, W), RGB in [0, 1], to features (B, D); its name or option block.
        patches: None takes whole images as samples; else a :class:`Sampler`, its name or option block.
    """

    takes = ("restored", "gt")
    joint = True  # features of all processes make one batch

    def __init__(
        self,
        extractor: nn.Module | Mapping[str, Any] | str,
        patches: Sampler | Mapping[str, Any] | str | None,
    ) -> None:
        name = type(self).__name__
        super().__init__(build_extractor(extractor, f"{name}.extractor"))
        self.patches = as_sampler(patches, Sampler, f"{name}.patches")
        self._check = ImageCheck()
        self._rows_checked = False  # a check that waits for the other processes is made once

    @property
    def extractor(self) -> nn.Module:
        """The frozen network that makes features."""
        return self.network

    @property
    def within_images(self) -> bool:
        """True if samples are compared with those of their own image alone."""
        return self.patches is not None and self.patches.scope == "image"

    def samples(self, restored: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, D) of the joint batch, of restored images, with their graph, and of clear ones, without.

        Args:
            restored: images (B, 3, H, W) in [0, 1], which they may leave a little.
            clear: images (B, 3, H, W) in [0, 1].

        Raises:
            ShapeError: for images of wrong shape and, at the first call, of another value range.
        """
        self._check(restored, clear)
        return self.gathered(self._of_this_process(restored, clear.detach()))

    def gathered(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Features (B, P, D) of the joint batch from those of this process, in training mode; else these."""
        if not self.training:
            return pair
        if not self._rows_checked:
            check_equal_rows(pair[0].shape[0] * pair[0].shape[1], pair[0].device)
            self._rows_checked = True
        return gather_rows(pair[0]), gather_rows(pair[1])

    def _of_this_process(self, restored: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
        if self.patches is not None:
            return self.patches(self.network, restored, clear)
        with torch.no_grad():
            clear_features = self.network(clear)
        features = self.network(restored)
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[0] != restored.shape[0]:
            shape = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            raise ShapeError(
                f"{type(self).__name__}.extractor: {type(self.network).__name__} must give features (B, D); of images "
                f"{tuple(restored.shape)} it made {shape}"
            )
        return features[:, None], clear_features[:, None]
