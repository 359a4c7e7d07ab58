"""Building blocks of MSBDN: residual block, back-projection units and the two kinds of dense feature fusion.

Source: Dong et al., "Multi-Scale Boosted Dehazing Network with Dense Feature Fusion", CVPR 2020, sections 3.2 and 3.3;
the relaxed fusion (RDFF) is the one of the improved network that its authors published later.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2sm_plugin.archs.blocks import ResidualDenseBlock, reflect_conv


class ResidualBlock(nn.Module):
    """``x + 0.1 · conv(prelu(conv(x)))`` on (B,C,H,W), size and channels kept."""

    #: Keeps the sum of many blocks near its input at the start of training.
    SCALE = 0.1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = reflect_conv(channels, channels, 3)
        self.act = nn.PReLU()
        self.conv2 = reflect_conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined feature, of the shape of ``x``."""
        return x + self.SCALE * self.conv2(self.act(self.conv1(x)))


def residual_group(channels: int, blocks: int = 3) -> nn.Sequential:
    """Return ``blocks`` residual blocks in a row; whether their input is added once more is up to the caller."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))


class ResampleUnit(nn.Module):
    """Step down or up: one 4x4 convolution of stride 2, and a PReLU of its own.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        up: True doubles (transposed convolution), False halves.
    """

    def __init__(self, channels_in: int, channels_out: int, up: bool) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.conv = kind(channels_in, channels_out, kernel_size=4, stride=2, padding=1)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels_out, 2H, 2W) or (B, channels_out, H/2, W/2)."""
        return self.act(self.conv(x))


class Upsample(nn.Module):
    """Transposed 3x3 convolution of stride 2 without padding, then a bilinear resize to a wanted size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, kernel_size=3, stride=2)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return (B, channels_out, *size); the convolution alone gives 2H+1 by 2W+1."""
        return F.interpolate(self.conv(x), size=tuple(size), mode="bilinear", align_corners=False)


class DenseFeatureFusion(nn.Module):
    """Correction of a feature by back-projection against every earlier one (DFF, section 3.3).

    The current feature is carried to the scale of an earlier one, the difference there is carried back and added. This
    is repeated for all earlier features, the one most scales away first; each time it starts from the feature as
    corrected so far. All of them share one chain of resampling units.

    Args:
        widths: channels of the current scale and of every scale on the way to the farthest earlier feature. In the
            encoder these are finer scales (fewer channels each), in the decoder coarser ones.
        towards_finer: True in the encoder, False in the decoder.
    """

    def __init__(self, widths: Sequence[int], towards_finer: bool) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        self.away = nn.ModuleList(ResampleUnit(near, far, up=towards_finer) for near, far in steps)
        self.back = nn.ModuleList(ResampleUnit(far, near, up=not towards_finer) for near, far in steps)

    def forward(self, feature: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            feature: (B, widths[0], H, W).
            memory: as many earlier features as there are steps; the one that is farthest away comes first.

        Returns:
            The fused feature, and what later scales shall remember of it (here the same tensor).
        """
        for distance, earlier in zip(range(len(self.away), 0, -1), memory, strict=True):
            error = feature
            for unit in self.away[:distance]:
                error = unit(error)
            error = error - earlier
            for index in reversed(range(distance)):
                error = self.back[index](error)
            feature = feature + error
        return feature, feature


class RelaxedFusion(nn.Module):
    """Relaxed dense feature fusion (RDFF): DFF on the first half of the channels, a dense block on the other.

    Args:
        widths: as for :class:`DenseFeatureFusion`, in channels of the whole feature; every one must be even.
        towards_finer: True in the encoder, False in the decoder.
    """

    def __init__(self, widths: Sequence[int], towards_finer: bool) -> None:
        super().__init__()
        self.fusion = DenseFeatureFusion([width // 2 for width in widths], towards_finer)
        self.dense = ResidualDenseBlock(widths[0] // 2, growth=widths[0] // 2, bias=False)

    def forward(self, feature: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the fused feature and its first half, which is all that later scales remember."""
        fused, passed_by = feature.chunk(2, dim=1)
        fused, _ = self.fusion(fused, memory)
        return torch.cat((fused, self.dense(passed_by)), dim=1), fused
