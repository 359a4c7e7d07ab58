"""Base of all semantic feature extractors: frozen, in eval mode, fed with plain images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import ShapeError


class FrozenExtractor(nn.Module):
    """Base of extractors of images (B, 3, H, W), RGB in [0, 1].

    Subclasses call :meth:`freeze` at the end of their constructor and :meth:`normalise` first in ``forward``. The
    gradient flows through to the images; the network itself has none and stays in eval mode whatever is asked of it.

    Args:
        mean: of each channel, as the network was trained with.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def freeze(self) -> None:
        """Set eval mode and take the parameters out of training."""
        self.eval()
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenExtractor:
        """Stay in eval mode."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Return images as the network was trained on.

        Raises:
            ShapeError: when they are not (B, 3, H, W).
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(
                f"{type(self).__name__} takes RGB images (B, 3, H, W) in [0, 1]; got the shape {tuple(images.shape)}"
            )
        return (images - self.mean) / self.std
