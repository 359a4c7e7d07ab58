"""RDN, the residual dense network for super-resolution by 2, 4 or 8."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

_STAGES = {2: 1, 4: 2, 8: 3}


class _DenseLayer(nn.Module):
    """Convolution and ReLU whose output is appended to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features, torch.relu(self.conv(features))), dim=1)


class ResidualDenseBlock(nn.Module):
    """Dense layers in a row and a 1x1 convolution back to the input's channels, added to the input.

    Args:
        channels: of input and output.
        growth: channels that each layer appends.
        num_layers: dense layers.
    """

    def __init__(self, channels: int, growth: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_DenseLayer(channels + n * growth, growth) for n in range(num_layers)))
        self.lff = nn.Conv2d(channels + num_layers * growth, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        return features + self.lff(self.layers(features))


@register(ARCH_REGISTRY)
class RDN(nn.Module):
    """RDN (Zhang et al.: "Residual dense network for image super-resolution", CVPR 2018).

    The defaults are the network of the paper's Table 2: 22,418,819 parameters, by 8, for which a third pixel-shuffle
    stage is added to the published network by 4 (22,271,107). Tensors are named as in the port yjn870/RDN-pytorch,
    whose files load; those by 4 fill all but the third stage when ``path.strict_load_g`` is false.

    Args:
        scale: 2, 4 or 8.
        num_in_ch: channels of the small images and of the restored ones.
        num_feat: channels of the features.
        growth: channels that each dense layer appends.
        num_block: residual dense blocks.
        num_layer: dense layers of a block.

    Raises:
        OptionError: for another ``scale``.
    """

    size_multiple = 1

    def __init__(
        self,
        scale: int = 8,
        num_in_ch: int = 3,
        num_feat: int = 64,
        growth: int = 64,
        num_block: int = 16,
        num_layer: int = 8,
    ) -> None:
        super().__init__()
        if scale not in _STAGES:
            raise OptionError(f"RDN.scale: expected one of {', '.join(map(str, _STAGES))}, got {scale}")
        self.num_in_ch = num_in_ch
        #: Each 3x3 convolution sees one pixel further, those behind a shuffle a fraction of one.
        self.receptive_radius = num_block * num_layer + 5
        self.sfe1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.sfe2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.rdbs = nn.ModuleList(ResidualDenseBlock(num_feat, growth, num_layer) for _ in range(num_block))
        self.gff = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1), nn.Conv2d(num_feat, num_feat, 3, padding=1)
        )
        stages = [(nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1), nn.PixelShuffle(2)) for _ in range(_STAGES[scale])]
        self.upscale = nn.Sequential(*(layer for stage in stages for layer in stage))
        self.output = nn.Conv2d(num_feat, num_in_ch, 3, padding=1)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore images.

        Args:
            lq: small images (B, C, h, w), [0, 1]; any size.

        Returns:
            (B, C, s*h, s*w), not clamped.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, self.num_in_ch, "RDN")
        shallow = self.sfe1(lq)
        features, outputs = self.sfe2(shallow), []
        for block in self.rdbs:
            features = block(features)
            outputs.append(features)
        return self.output(self.upscale(self.gff(torch.cat(outputs, dim=1)) + shallow))
