"""SRResNet for super-resolution by 8: BasicSR's MSRResNet with a third pixel-shuffle stage."""

from __future__ import annotations

import torch.nn.functional as F
from basicsr.archs.arch_util import default_init_weights
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images
from d2sm_plugin.registry import register

_SCALE = 8
_INITIAL_SCALE = 0.1


@register(ARCH_REGISTRY)
class MSRResNetX8(MSRResNet):
    """BasicSR's modified SRResNet (Ledig et al., CVPR 2017) for x8, which BasicSR's own does not offer.

    It is the x4 network with one more stage (convolution, pixel shuffle, leaky ReLU) before the last two convolutions:
    1,665,283 parameters with the defaults. Weights of an x4 network fill all but the new stage (``upconv3``) when
    ``path.strict_load_g`` is false.

    Args:
        num_in_ch: channels of the small images.
        num_out_ch: channels of the restored images, the same number.
        num_feat: channels of the features.
        num_block: residual blocks.
    """

    def __init__(self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16) -> None:
        super().__init__(num_in_ch, num_out_ch, num_feat, num_block, upscale=4)
        self.upscale = _SCALE
        self.upconv3 = nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1)
        default_init_weights(self.upconv3, _INITIAL_SCALE)

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
        features = self.body(self.lrelu(self.conv_first(lq)))
        for stage in (self.upconv1, self.upconv2, self.upconv3):
            features = self.lrelu(self.pixel_shuffle(stage(features)))
        detail = self.conv_last(self.lrelu(self.conv_hr(features)))
        return detail + F.interpolate(lq, scale_factor=_SCALE, mode="bilinear", align_corners=False)
