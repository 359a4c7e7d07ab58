"""Parts of FSRNet: residual blocks with reflected borders, and blocks of its hourglasses."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import reflect_conv
from d2sm_plugin.archs.hourglass_blocks import Hourglass

_HOURGLASSES, _LEVELS = 2, 3


#: The 3x3 convolution of the residual parts.
plain_conv = partial(reflect_conv, bias=False)


def norm_relu(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """Return a convolution, batch normalisation and ReLU."""
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


class ReflectResidualBlock(nn.Module):
    """Two convolutions, each with batch normalisation, ReLU between them, added to the input.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *norm_relu(plain_conv(channels, channels)), plain_conv(channels, channels), nn.BatchNorm2d(channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        return features + self.body(features)


class PreactivationBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution on half the channels, each after normalisation and ReLU, added to the input.

    Args:
        in_channels: of the input.
        out_channels: of the output; where it differs, a 1x1 convolution projects the input that is added back.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        layers: list[nn.Module] = []
        for before, after, kernel in ((in_channels, half, 1), (half, half, 3), (half, out_channels, 1)):
            conv = nn.Conv2d(before, after, kernel, padding=kernel // 2)
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True), conv]
        self.body = nn.Sequential(*layers)
        self.project = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', H, W)."""
        return self.project(features) + self.body(features)


class ImagePart(nn.Module):
    """A head, residual blocks, a convolution and tanh: coarse network, fine encoder and decoder of FSRNet.

    Args:
        head: layers in front; their output has ``channels``.
        channels: of the residual blocks.
        num_block: residual blocks.
        out_channels: of the output.
    """

    def __init__(self, head: list[nn.Module], channels: int, num_block: int, out_channels: int) -> None:
        super().__init__()
        self.head = nn.Sequential(*head)
        self.blocks = nn.Sequential(*(ReflectResidualBlock(channels) for _ in range(num_block)))
        self.tail = plain_conv(channels, out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W') in [-1, 1]."""
        return torch.tanh(self.tail(self.blocks(self.head(images))))


class PriorNetwork(nn.Module):
    """Estimator of facial priors from the coarse face with two hourglasses, at half its size.

    Args:
        in_channels: of the first convolution's output.
        channels: of everything behind it, an even number.
        num_block: residual blocks before the hourglasses.
    """

    def __init__(self, in_channels: int, channels: int, num_block: int = 2) -> None:
        super().__init__()
        self.head = nn.Sequential(*norm_relu(nn.Conv2d(3, in_channels, 7, 2, 3, bias=False)))
        self.lift = PreactivationBottleneck(in_channels, channels)
        self.blocks = nn.Sequential(*(ReflectResidualBlock(channels) for _ in range(num_block)))
        block = partial(PreactivationBottleneck, channels, channels)
        self.hourglasses = nn.Sequential(*(Hourglass(block, _LEVELS, nearest=True) for _ in range(_HOURGLASSES)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), H and W multiples of 16, to features (B, C, H/2, W/2)."""
        return self.hourglasses(self.blocks(self.lift(self.head(images))))
