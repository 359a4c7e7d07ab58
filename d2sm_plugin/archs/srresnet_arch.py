"""SRResNet for super-resolution by 8: BasicSR's MSRResNet with a third pixel-shuffle stage."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import ResidualBlock, check_images
from d2sm_plugin.argument_types import Count
from d2sm_plugin.registry import ARCH_REGISTRY, register

_SCALE = 8
_SLOPE = 0.1


@register(ARCH_REGISTRY)
class MSRResNetX8(nn.Module):
    """BasicSR's modified SRResNet (Ledig et al., CVPR 2017) for x8, which BasicSR's own does not offer.

    It is the x4 network with one more stage (convolution, pixel shuffle, leaky ReLU) before the last two convolutions:
    1,665,283 parameters with the defaults. Weights of an x4 network fill all but the new stage (``upconv3``) when
    ``path.strict_load_g`` is false. With one seed both
    start with the same weights: normal, of a tenth of the deviation of He et al.; biases 0.

    Args:
        num_in_ch: channels of the small images.
        num_out_ch: channels of the restored images, the same number.
        num_feat: channels of the features.
        num_block: residual blocks.
    """

    def __init__(
        self, num_in_ch: Count = 3, num_out_ch: Count = 3, num_feat: Count = 64, num_block: Count = 16
    ) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat).apply(_initialise) for _ in range(num_block)))
        self.upconv1, self.upconv2 = (nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1) for _ in range(2))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        for conv in (self.conv_first, self.upconv1, self.conv_hr, self.conv_last, self.upconv2):
            _initialise(conv)
        self.upconv3 = nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1)
        _initialise(self.upconv3)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore images.

        Args:
            lq: small images (B, C, h, w), [0, 1]; any size.

        Returns:
            (B, C, 8h, 8w), not clamped.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, self.conv_first.in_channels, "MSRResNetX8")
        features = self.body(_activate(self.conv_first(lq)))
        for stage in (self.upconv1, self.upconv2, self.upconv3):
            features = _activate(F.pixel_shuffle(stage(features), 2))
        detail = self.conv_last(_activate(self.conv_hr(features)))
        return detail + F.interpolate(lq, scale_factor=_SCALE, mode="bilinear", align_corners=False)


def _activate(features: Tensor) -> Tensor:
    return F.leaky_relu(features, _SLOPE, inplace=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        module.weight.data.mul_(0.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
