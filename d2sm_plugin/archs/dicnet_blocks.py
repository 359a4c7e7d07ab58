"""Parts of DICNet: the feedback block, and the fusion that attends to facial components."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import LEAKY_SLOPE

_PRELU_START = 0.2
#: Kernel, stride and padding of the projections up and down, by their factor (SRFBN's).
PROJECTIONS = {2: (6, 2, 2), 4: (8, 4, 2), 8: (12, 8, 2)}


def prelu_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """Return a convolution and a PReLU of one parameter."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding), nn.PReLU(init=_PRELU_START)
    )


def prelu_transposed(channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
    """Return a transposed convolution and a PReLU of one parameter."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels, kernel_size, stride, padding), nn.PReLU(init=_PRELU_START)
    )


class ComponentFusion(nn.Module):
    """Features of each facial component, mixed at every pixel by where the components are.

    Args:
        channels: of the features.
        num_components: facial components.
        num_blocks: residual blocks, whose convolutions are grouped by component.
    """

    def __init__(self, channels: int, num_components: int, num_blocks: int) -> None:
        super().__init__()
        self.num_components = num_components
        width = num_components * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, width, 1), nn.LeakyReLU(LEAKY_SLOPE, inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=num_components),
                nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
                nn.Conv2d(width, width, 3, padding=1, groups=num_components),
            )
            for _ in range(num_blocks)
        )

    def forward(self, features: Tensor, components: Tensor) -> Tensor:
        """Map features (B, C, H, W) and maps of the components (B, K, H, W) to (B, C, H, W)."""
        wide = self.expand(features)
        for block in self.blocks:
            wide = wide + block(wide)
        by_component = wide.unflatten(1, (self.num_components, -1))
        attention = components.softmax(dim=1).unsqueeze(2)
        return (by_component * attention).sum(dim=1)


def merge_heatmaps(heatmaps: Tensor, components: Sequence[Sequence[int]]) -> Tensor:
    """Sum the heatmaps of each component's points, each divided by its own maximum (0.05 at least).

    Args:
        heatmaps: (B, P, H, W).
        components: points of each of the K components.

    Returns:
        (B, K, H, W).
    """
    peaks = heatmaps.amax(dim=(2, 3), keepdim=True).clamp(min=0.05)
    relative = heatmaps / peaks
    return torch.stack([relative[:, list(points)].sum(dim=1) for points in components], dim=1)


class FeedbackBlock(nn.Module):
    """Projections up and down in turn, densely connected (SRFBN's block), with or without component fusion.

    Args:
        in_channels: of the input.
        channels: inside and of the output.
        num_groups: pairs of projections.
        factor: of the projections, 2, 4 or 8.
        num_components: facial components; 0 for a block without fusion.
        num_fusion_blocks: residual blocks of the fusion.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_groups: int,
        factor: int,
        num_components: int = 0,
        num_fusion_blocks: int = 0,
    ) -> None:
        super().__init__()
        self.compress_in = prelu_conv(in_channels, channels, 1)
        if num_components:
            self.fusion = ComponentFusion(channels, num_components, num_fusion_blocks)
        self.ups = nn.ModuleList(prelu_transposed(channels, *PROJECTIONS[factor]) for _ in range(num_groups))
        self.downs = nn.ModuleList(prelu_conv(channels, channels, *PROJECTIONS[factor]) for _ in range(num_groups))
        self.merge_low = nn.ModuleList(prelu_conv((n + 1) * channels, channels, 1) for n in range(1, num_groups))
        self.merge_high = nn.ModuleList(prelu_conv((n + 1) * channels, channels, 1) for n in range(1, num_groups))
        self.compress_out = prelu_conv(num_groups * channels, channels, 1)

    def forward(self, features: Tensor, components: Tensor | None = None) -> Tensor:
        """Map features (B, C, H, W), and for the fusion maps of the components (B, K, H, W), to (B, C', H, W)."""
        features = self.compress_in(features)
        if components is not None:
            features = self.fusion(features, components)
        low, high = [features], []
        for number, (up, down) in enumerate(zip(self.ups, self.downs, strict=True)):
            source = low[0] if number == 0 else self.merge_low[number - 1](torch.cat(low, dim=1))
            high.append(up(source))
            source = high[0] if number == 0 else self.merge_high[number - 1](torch.cat(high, dim=1))
            low.append(down(source))
        return self.compress_out(torch.cat(low[1:], dim=1))
