"""DuRN-US, dual residual blocks of enlarging and attention (the row DuRN of the paper's Table 3).

Source: Liu et al., "Dual Residual Networks Leveraging the Potential of Paired Operations for Image Restoration",
CVPR 2019, section 4.4 (haze).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images, conv_act, pad_to_multiple, reflect_conv
from d2sm_plugin.archs.renaming import Renaming
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

#: Kernels of the published network's twelve blocks.
_KERNELS = (5, 5, 7, 7, 11, 11, 11, 11, 11, 11, 11, 11)


class AttentionBlock(nn.Module):
    """Residual block with squeeze-and-excitation: two 3x3 convolutions, a factor for every channel, ReLU of the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels), nn.Sigmoid()
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        branch = self.conv2(self.conv1(feature).relu())
        weights = self.weigh(branch.mean((2, 3)))
        return (branch * weights[..., None, None] + feature).relu()


class DualResidualBlock(nn.Module):
    """DuRB-US: enlarges a feature with a large kernel, weighs its channels, reduces it; two residual streams pass on.

    Args:
        channels: of both streams.
        kernel: side of the convolution on the enlarged feature.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = reflect_conv(channels, channels, 3)
        self.conv2 = reflect_conv(channels, channels, 3)
        self.up = upsampling(channels, kernel)
        self.attention = AttentionBlock(channels)
        self.down = reflect_conv(channels, channels, 3, stride=2)

    def forward(self, feature: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams (B, C, h, w) and (B, C, 2h, 2w) behind the block."""
        refined = (self.conv2(self.conv1(feature).relu()) + feature).relu()
        fine = (self.up(refined) + fine).relu()
        return (self.down(self.attention(fine)) + feature).relu(), fine


def upsampling(channels: int, kernel: int) -> nn.Sequential:
    """Return a pixel shuffle that doubles H and W, and a convolution; no activation."""
    expand = reflect_conv(channels, 4 * channels, 3)
    return nn.Sequential(expand, nn.PixelShuffle(2), reflect_conv(channels, channels, kernel))


@register(ARCH_REGISTRY)
class DuRN(nn.Module):
    """DuRN-US for haze: dual residual blocks at a quarter of the size, ``tanh`` of a residual image added to the input.

    The published network has 9,070,915 parameters. Images of any height and width are taken: they are mirrored at the
    bottom and right to a multiple of 4, at least 12, and the output is cropped back. The attention averages over the
    whole image, so restoring by tiles is an approximation.

    Args:
        num_feat: channels, even; the published network has 64.
        kernels: one block for each, side of its convolution on the enlarged feature, odd.

    Raises:
        OptionError: for numbers that give no network.
    """

    inputs = ("lq",)
    size_multiple = 4

    def __init__(self, num_feat: int = 64, kernels: Sequence[int] = _KERNELS) -> None:
        super().__init__()
        if num_feat < 2 or num_feat % 2 or not kernels or min(kernels) < 1 or any(side % 2 == 0 for side in kernels):
            raise OptionError(
                f"DuRN: num_feat must be even and at least 2, kernels odd numbers; got {num_feat} and {list(kernels)}"
            )
        #: The largest kernel's padding by reflection needs so much of the fine map, which has half the image's side.
        self.min_side = 4 * max(2, -(-(max(kernels) // 2 + 1) // 2))
        self.head = nn.Sequential(conv_act(3, num_feat, 7), conv_act(num_feat, num_feat, stride=2))
        self.reduce = conv_act(num_feat, num_feat, stride=2)
        self.blocks = nn.ModuleList(DualResidualBlock(num_feat, kernel) for kernel in kernels)
        self.up1 = upsampling(num_feat, 3)
        self.up2 = upsampling(num_feat, 3)
        self.tail = nn.Conv2d(num_feat, 3, 7, padding=3)

    def forward(self, lq: Tensor) -> Tensor:
        """Remove haze.

        Args:
            lq: hazy images (B, 3, H, W), RGB, [0, 1].

        Returns:
            Restored images (B, 3, H, W), not clamped.

        Raises:
            ShapeError: for images that do not have three channels.
        """
        check_images(lq, 3, "DuRN")
        height, width = lq.shape[-2:]
        images = pad_to_multiple(lq, self.size_multiple, "symmetric")
        if min(images.shape[-2:]) < self.min_side:
            images = pad_to_multiple(images, self.min_side, "symmetric")
        fine = self.head(images)
        feature = self.reduce(fine)
        for block in self.blocks:
            feature, fine = block(feature, fine)
        residual = self.tail(self.up2(self.up1(feature).relu()).relu()).tanh()
        return (residual + images)[..., :height, :width]

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensor names of the published network to ours; others stay as they are."""
        return _NAMES.tensors(state)


#: Published name -> ours.
_NAMES = Renaming(
    (r"^conv1\.", "head.0.0."),
    (r"^conv2\.", "head.1.0."),
    (r"^conv3\.", "reduce.0."),
    (r"^upconv([12])\.conv2d\.", r"up\1.0."),
    (r"^conv4\.conv2d\.", "up1.2."),
    (r"^conv5\.conv2d\.", "up2.2."),
    (r"^end_conv\.", "tail."),
    (r"^rud(\d+)\.", lambda match: f"blocks.{int(match[1]) - 1}."),
    (r"\.conv_pre\.conv2d\.", ".up.0."),
    (r"\.up_conv\.conv2d\.", ".up.2."),
    (r"\.down_conv\.conv2d\.", ".down."),
    (r"\.(conv[12])\.conv2d\.", r".\1."),
    (r"\.se\.se\.fc\.", ".attention.weigh."),
    (r"\.se\.", ".attention."),
)
