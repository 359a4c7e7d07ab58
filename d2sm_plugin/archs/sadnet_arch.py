"""SADNet: an encoder-decoder whose decoder samples features where it pleases, by modulated deformable convolution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from d2sm_plugin.archs.blocks import ResidualBlock, check_images, conv_act, make_activation, pad_to_multiple
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

_SCALES = 4
_DEFORM_GROUPS = 8
_TAPS = 9


@register(ARCH_REGISTRY)
class SADNet(nn.Module):
    """SADNet (Chang et al.: "Spatial-adaptive network for single image denoising", ECCV 2020).

    Four scales. The encoder has a residual block per scale and 2x2 convolutions of stride 2; dilated convolutions
    gather context at the coarsest scale; each scale of the decoder refines with a modulated deformable convolution,
    whose offsets come from a branch that runs from coarse to fine. The network predicts the difference to the noisy
    image. The defaults are the published network (4,234,723 parameters).

    Initial values: Xavier-uniform weights and zero biases for every convolution. That includes the heads that predict
    offsets and masks. One would expect these to start at zero (offsets 0, all masks 1/2), and the published module
    sets them so, but its surrounding block then initialises every convolution over again; training has always
    started from small random offsets, and does here. The deformable weights alone keep U(-1, 1)/sqrt(9 C).

    Deformable sampling has no bounded reach: an offset may point anywhere. While all offsets stay below one pixel, as
    in a fresh network, an input reaches outputs up to 134 pixels away; every further pixel of offset can add 15 (one
    at each scale, times its stride). Restoring by tiles is exact with that overlap, else an approximation near seams.

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the restored image; the noisy image is added to it, so it must equal ``num_in_ch``.
        num_feat: channels at full resolution, a multiple of 8; each coarser scale has twice as many.
        num_offset_feat: channels of the offset branch.

    Raises:
        OptionError: for different numbers of channels in and out, or ``num_feat`` not a multiple of 8.
    """

    size_multiple = 2 ** (_SCALES - 1)
    receptive_radius = 134  # with offsets below one pixel

    def __init__(
        self, num_in_ch: Count = 3, num_out_ch: Count = 3, num_feat: Count = 32, num_offset_feat: Count = 32
    ) -> None:
        super().__init__()
        _check_channels(num_in_ch, num_out_ch, num_feat)
        self.num_in_ch = num_in_ch
        widths = [num_feat * 2**scale for scale in range(_SCALES)]
        steps = list(pairwise(widths))
        self.encoders = nn.ModuleList(
            ResidualBlock(num_in_ch if width == num_feat else width, width, "leaky_relu") for width in widths
        )
        self.downs = nn.ModuleList(
            conv_act(fine, coarse, 2, stride=2, activation="leaky_relu") for fine, coarse in steps
        )
        self.context = ContextBlock(widths[-1], 2 * num_feat)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.merges = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine, _ in steps)
        self.offsets = nn.ModuleList(
            OffsetBlock(width, num_offset_feat, has_coarser=width != widths[-1]) for width in widths
        )
        self.decoders = nn.ModuleList(AdaptiveBlock(width, num_offset_feat) for width in widths)
        self.last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        self.apply(_initialise)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore noisy images.

        Args:
            lq: noisy images (B, C, H, W), [0, 1], RGB where C = 3; any H and W (padded to multiples of 8 by repeating
                the last row and column, then cropped).

        Returns:
            Restored images, same size as ``lq``, not clamped.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, self.num_in_ch, "SADNet")
        height, width = lq.shape[-2:]
        images = pad_to_multiple(lq, self.size_multiple)
        skips = [self.encoders[0](images)]
        for down, encoder in zip(self.downs, self.encoders[1:], strict=True):
            skips.append(encoder(down(skips[-1])))
        features = self.context(skips.pop())
        offset = self.offsets[-1](features)
        features = self.decoders[-1](features, offset)
        for scale in reversed(range(_SCALES - 1)):
            features = self.merges[scale](torch.cat((self.ups[scale](features), skips[scale]), dim=1))
            offset = self.offsets[scale](features, offset)
            features = self.decoders[scale](features, offset)
        return (self.last(features) + images)[..., :height, :width]

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint (``res1.conv0.weight``, ...) under this network's names.

        Other names pass unchanged.
        """
        return {_name_here(name): value for name, value in state.items()}


class ContextBlock(nn.Module):
    """Four 3x3 convolutions of dilation 1 to 4 side by side on reduced channels, fused and added to the input."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.branches = nn.ModuleList(
            conv_act(reduced, reduced, dilation=dilation, activation="leaky_relu") for dilation in (1, 2, 3, 4)
        )
        self.fuse = nn.Conv2d(4 * reduced, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        reduced = self.reduce(features)
        return features + self.fuse(torch.cat([branch(reduced) for branch in self.branches], dim=1))


class OffsetBlock(nn.Module):
    """Features from which offsets and masks are predicted, refined from those of the next coarser scale."""

    def __init__(self, channels: int, offset_channels: int, has_coarser: bool) -> None:
        super().__init__()
        self.first = conv_act(channels, offset_channels, activation="leaky_relu")
        if has_coarser:
            self.join = conv_act(2 * offset_channels, offset_channels, activation="leaky_relu")
        self.last = conv_act(offset_channels, offset_channels, activation="leaky_relu")

    def forward(self, features: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Map features (B, C, H, W) and the coarser offset feature (B, O, H/2, W/2) to (B, O, H, W)."""
        offset = self.first(features)
        if coarser is not None:
            # Twice the resolution makes the same shift twice as many pixels, hence the factor.
            enlarged = 2 * F.interpolate(coarser, scale_factor=2, mode="bilinear", align_corners=False)
            offset = self.join(torch.cat((offset, enlarged), dim=1))
        return self.last(offset)


class AdaptiveBlock(nn.Module):
    """Residual block whose first convolution is deformable and modulated ("residual spatial-adaptive block")."""

    def __init__(self, channels: int, offset_channels: int) -> None:
        super().__init__()
        self.deform = DeformableConv(channels, offset_channels)
        self.activation = make_activation("leaky_relu")
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, offset: Tensor) -> Tensor:
        """Map features (B, C, H, W) and an offset feature (B, O, H, W) to (B, C, H, W)."""
        return features + self.conv(self.activation(self.deform(features, offset)))


class DeformableConv(nn.Module):
    """Modulated deformable 3x3 convolution whose offsets and masks are predicted from another feature map.

    The head's 216 channels are, in order, 144 offsets (for each of 8 groups of channels and each of 9 taps first dy,
    then dx, in pixels) and 72 masks before the sigmoid.
    """

    def __init__(self, channels: int, offset_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.head = nn.Conv2d(offset_channels, 3 * _TAPS * _DEFORM_GROUPS, 3, padding=1)
        bound = (_TAPS * channels) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor, offset: Tensor) -> Tensor:
        """Map features (B, C, H, W) and an offset feature (B, O, H, W) to (B, C, H, W)."""
        shifts, mask = self.head(offset).split((2 * _TAPS * _DEFORM_GROUPS, _TAPS * _DEFORM_GROUPS), dim=1)
        # Under autocast these are in half precision, which the operator does not take on every device, and in which
        # an offset of a few pixels is only good to a hundredth.
        features, shifts, mask = (tensor.to(self.weight.dtype) for tensor in (features, shifts, mask.sigmoid()))
        return deform_conv2d(features, shifts, self.weight, self.bias, padding=1, mask=mask)


def _check_channels(num_in_ch: int, num_out_ch: int, num_feat: int) -> None:
    if num_in_ch != num_out_ch:
        raise OptionError(
            f"SADNet adds the noisy image to its result, so num_in_ch ({num_in_ch}) and num_out_ch ({num_out_ch}) must "
            f"be equal"
        )
    if num_feat < 1 or num_feat % _DEFORM_GROUPS:
        raise OptionError(f"SADNet: num_feat is {num_feat}, but its deformable groups need a multiple of 8")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


#: Published name of a layer -> ours; "{n}" counts scales from 1 there and from 0 here.
_NAMES = (
    (r"res(\d)\.conv0", "encoders.{n}.project"),
    (r"res(\d)\.conv([12])", "encoders.{n}.conv{m}"),
    (r"down(\d)", "downs.{n}.0"),
    (r"context\.conv0", "context.reduce"),
    (r"context\.conv([1-4])", "context.branches.{n}.0"),
    (r"context\.fusion", "context.fuse"),
    (r"offset(\d)\.offset_conv1", "offsets.{n}.first.0"),
    (r"offset(\d)\.offset_conv2", "offsets.{n}.join.0"),
    (r"offset(\d)\.offset_conv3", "offsets.{n}.last.0"),
    (r"dres(\d)\.dcnpack", "decoders.{n}.deform"),
    (r"dres(\d)\.dcnpack\.conv_offset_mask", "decoders.{n}.deform.head"),
    (r"dres(\d)\.conv1", "decoders.{n}.conv"),
    (r"up(\d)", "ups.{n}"),
    (r"dconv(\d)_1", "merges.{n}"),
    (r"out", "last"),
)


def _name_here(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    for published, replacement in _NAMES:
        if match := re.fullmatch(published, layer):
            numbers = [*match.groups(), "0", "0"]
            return f"{replacement.format(n=int(numbers[0]) - 1, m=numbers[1])}.{kind}"
    return name
