"""PFFNet, an encoder and decoder with progressive feature fusion by addition (a row of the paper's Table 3).

Source: Mei et al., "Progressive Feature Fusion Network for Realistic Image Dehazing", ACCV 2018. MSBDN grew out of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from d2sm_plugin.archs.blocks import LEAKY_SLOPE, check_images, pad_to_multiple, reflect_conv
from d2sm_plugin.archs.msbdn_blocks import residual_group
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

LEVELS = 4
#: Images are mirrored to a side of at least this, so that the coarsest map can be padded by reflection.
MIN_SIDE = 2 * 2**LEVELS


class Upsample(nn.Module):
    """Reflection padding, transposed 3x3 convolution of stride 2, leaky ReLU; then a bilinear resize to any size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2)

    def forward(self, feature: Tensor, size: Sequence[int]) -> Tensor:
        """Return (B, channels_out, *size); the convolution alone gives 2H+5 by 2W+5."""
        feature = F.leaky_relu(self.conv(F.pad(feature, (1, 1, 1, 1), mode="reflect")), LEAKY_SLOPE)
        return F.interpolate(feature, size=tuple(size), mode="bilinear", align_corners=False)


@register(ARCH_REGISTRY)
class PFFNet(nn.Module):
    """Progressive feature fusion network: five scales, residual blocks at the coarsest, skips by addition.

    The published network has 20,853,076 parameters. Images of any height and width are taken; those with a
    side of 16 or less are mirrored at the bottom and right to multiples of 32, and the output is cropped back.

    Args:
        num_feat: channels at the finest scale; every coarser scale has twice as many. The published network has 16.
        num_block: residual blocks at the coarsest scale. The published training has 17, which its argument 18 counts
            from 1; its test script's default of 13 builds 12.

    Raises:
        OptionError: for a number below 1.
    """

    inputs = ("lq",)
    size_multiple = 2**LEVELS

    def __init__(self, num_feat: int = 16, num_block: int = 17) -> None:
        super().__init__()
        if num_feat < 1 or num_block < 1:
            raise OptionError(
                f"PFFNet: num_feat and num_block must be at least 1; got num_feat {num_feat}, num_block {num_block}"
            )
        widths = [num_feat * 2**level for level in range(LEVELS + 1)]
        self.head = reflect_conv(3, num_feat, 11)
        self.encoder = nn.ModuleList(
            reflect_conv(widths[level], widths[level + 1], 3, stride=2) for level in range(LEVELS)
        )
        self.dehaze = residual_group(widths[-1], num_block)
        self.decoder = nn.ModuleList(Upsample(widths[level + 1], widths[level]) for level in reversed(range(LEVELS)))
        self.tail = reflect_conv(num_feat, 3, 3)

    def forward(self, lq: Tensor) -> Tensor:
        """Remove haze.

        Args:
            lq: hazy images (B, 3, H, W), RGB, [0, 1].

        Returns:
            Restored images (B, 3, H, W), not clamped.

        Raises:
            ShapeError: for images that do not have three channels.
        """
        check_images(lq, 3, "PFFNet")
        height, width = lq.shape[-2:]
        small = min(height, width) <= MIN_SIDE // 2
        images = pad_to_multiple(lq, MIN_SIDE, "symmetric") if small else lq
        features = [F.leaky_relu(self.head(images), LEAKY_SLOPE)]
        for down in self.encoder:
            features.append(F.leaky_relu(down(features[-1]), LEAKY_SLOPE))
        feature = features.pop()
        feature = self.dehaze(feature) + feature
        for up in self.decoder:
            skip = features.pop()
            feature = up(feature, skip.shape[-2:]) + skip
        return self.tail(feature)[..., :height, :width]

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensor names of the published network to ours; others stay as they are.

        Its two layers of frozen mean shifts, which it never calls, are left out.
        """
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(("sub_mean.", "add_mean."))}
        return {_name_here(name): tensor for name, tensor in kept.items()}


_LEVEL = {"2": 0, "4": 1, "8": 2, "16": 3}


def _name_here(name: str) -> str:
    if match := re.match(r"conv(d?)(2|4|8|16)x\.conv2d\.", name):
        level = _LEVEL[match[2]]
        module_name = f"decoder.{LEVELS - 1 - level}.conv." if match[1] else f"encoder.{level}."
        return module_name + name[match.end() :]
    if match := re.match(r"dehaze\.res(\d+)\.", name):
        rest = name[match.end() :].replace(".conv2d.", ".").replace("relu.", "act.")
        return f"dehaze.{int(match[1]) - 1}.{rest}"
    return name.replace("conv_input.conv2d.", "head.").replace("conv_output.conv2d.", "tail.")
