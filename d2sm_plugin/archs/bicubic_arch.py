"""Bicubic enlargement as a network without parameters: the first row of the paper's Table 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.registry import ARCH_REGISTRY, register

_MARGIN = 2  # pixels that the kernel, of a = -0.5, reaches beyond the image


@register(ARCH_REGISTRY)
class BicubicUpsampling(nn.Module):
    """Enlargement of images as MATLAB's ``imresize`` does it: bicubic of a = -0.5, mirrored at the border.

    Args:
        scale: factor.
    """

    inputs = ("lq",)

    def __init__(self, scale: Count = 8) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lq: Tensor) -> Tensor:
        """Enlarge images (B, C, h, w) to (B, C, scale h, scale w), not clamped.

        Raises:
            ShapeError: for anything but four axes, or a side below 2 pixels.
        """
        if lq.ndim != 4 or min(lq.shape[-2:]) < _MARGIN:
            raise ShapeError(
                f"BicubicUpsampling: expected images (B, C, h, w) of at least {_MARGIN} pixels a side, got "
                f"{tuple(lq.shape)}"
            )
        for axis in (-2, -1):
            first, last = lq.narrow(axis, 0, _MARGIN), lq.narrow(axis, lq.shape[axis] - _MARGIN, _MARGIN)
            lq = torch.cat((first.flip(axis), lq, last.flip(axis)), axis)
        # With antialias torch takes a = -0.5, without it -0.75; an enlargement has nothing to smooth.
        large = F.interpolate(lq, scale_factor=self.scale, mode="bicubic", antialias=True)
        cut = _MARGIN * self.scale
        return large[..., cut:-cut, cut:-cut]
