"""Samplers: the samples of an image, other than the whole image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.features.interface import Extractor
from d2sm_plugin.losses.state_module import StateModule
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES

SCOPES = ("batch", "image")


class Sampler(StateModule, ABC):
    """Base of samplers, which take P samples from every image of a batch: the same ones of restored and clear.

    Subclasses implement :meth:`forward`, drawing samples by :meth:`choose`.

    Args:
        limit: at most so many samples of an image are drawn at random; None takes all. The draw is the same for all
            images of a batch and, with one seed, for all processes of a distributed training.
        scope: ``"batch"`` compares all samples of the batch with each other, ``"image"`` only those of one image.
        seed: of the generator behind the draws.

    Attributes:
        generator_state: of that generator. It advances only with gradients and in training, so a validation between
            changes nothing.

    Raises:
        OptionError: for an unknown scope or an impossible limit.
    """

    host_buffers = ("generator_state",)
    generator_state: Tensor

    def __init__(self, limit: int | None, scope: str, seed: int) -> None:
        super().__init__()
        name = type(self).__name__
        if scope not in SCOPES:
            raise OptionError(f"{name}.scope: '{scope}' is unknown{suggest(scope, SCOPES)}")
        least = LEAST_SAMPLES if scope == "image" else 1
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < least):
            raise OptionError(f"{name}: expected at least {least} samples of an image (scope '{scope}'), got {limit!r}")
        self.limit, self.scope = limit, scope
        self.register_buffer("generator_state", torch.Generator().manual_seed(seed).get_state())

    @abstractmethod
    def forward(self, extractor: Extractor, restored: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, D) of restored images, with their graph, and of clear ones, without.

        Args:
            extractor: frozen network.
            restored: images (B, 3, H, W) in [0, 1].
            clear: likewise.
        """

    def samples_of(self, side: int) -> int | None:
        """Return the number of samples of a square image; None where only the extractor can tell.

        Args:
            side: of the image, in pixels.

        Raises:
            ShapeError: when the image is too small.
        """
        return None

    def choose(self, count: int) -> list[int]:
        """Draw at most ``limit`` of ``count`` samples, in ascending order."""
        if self.limit is None or count <= self.limit:
            return list(range(count))
        generator = torch.Generator()
        generator.set_state(self.generator_state)
        chosen = torch.randperm(count, generator=generator)[: self.limit].sort().values
        if self.training and torch.is_grad_enabled():
            self.generator_state.copy_(generator.get_state())
        return chosen.tolist()
