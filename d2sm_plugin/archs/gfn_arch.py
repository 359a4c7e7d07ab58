"""GFN, which fuses three derived versions of a hazy image by confidence maps (a row of the paper's Table 3).

Source: Ren et al., "Gated Fusion Network for Single Image Dehazing", CVPR 2018; details that the publication leaves
open are those of the published Caffe network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2sm_plugin.archs.blocks import check_images, resize_bicubic
from d2sm_plugin.archs.caffemodel import read_caffemodel
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

#: Slope of the leaky ReLU behind every convolution, those of the confidence maps and between the scales included.
SLOPE = 0.1
GAMMA = 2.5
#: Kernel of the first convolution and dilation of the first four, from the coarsest scale to the finest.
_SCALES = ((3, 1), (5, 2), (7, 3))


def derived_images(hazy: Tensor) -> Tensor:
    """Return the hazy image, then its white-balanced, contrast-enhanced and gamma-corrected versions.

    White balance (grey world) divides the 8-bit levels of each channel by their mean; contrast is
    ``2 (0.5 + m) (I - m)`` with the mean m of all values; gamma is ``I^2.5``.

    Args:
        hazy: images (B, 3, H, W), [0, 1].

    Returns:
        (B, 12, H, W); contrast-enhanced values may leave [0, 1].
    """
    levels = (255 * hazy).round()
    averages = levels.mean((2, 3), keepdim=True)
    balanced = (levels * (averages.mean(1, keepdim=True) / (averages + 0.001))).clamp(max=255) / 255
    mean = hazy.mean((1, 2, 3), keepdim=True)
    contrast = 2 * (0.5 + mean) * (hazy - mean)
    return torch.cat((hazy, balanced, contrast, hazy**GAMMA), dim=1)


def _conv(before: int, after: int, kernel: int = 3, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [nn.Conv2d(before, after, kernel, padding=padding, dilation=dilation), nn.LeakyReLU(SLOPE, inplace=True)]


def _deconv(before: int, after: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.ConvTranspose2d(before, after, kernel, stride, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]


class GatedScale(nn.Module):
    """One scale: three encoder and three decoder stages, all of which give their last feature to the confidence maps.

    Args:
        channels: of the input: 12, or 15 with the result of the coarser scale.
        width: channels of the features.
        wide: channels behind the second stage's first convolution.
        kernel: side of the first convolution.
        dilation: of the first stage and of the second one's first convolution.
    """

    def __init__(self, channels: int, width: int, wide: int, kernel: int, dilation: int) -> None:
        super().__init__()
        first = [
            *_conv(channels, width, kernel, dilation),
            *_conv(width, width, dilation=dilation),
            *_conv(width, width, dilation=dilation),
        ]
        second = [*_conv(width, wide, dilation=dilation), *_conv(wide, width), *_conv(width, width)]
        third = [*_conv(width, width), *_conv(width, width), *_conv(width, width)]
        self.encoder = nn.ModuleList(nn.Sequential(*stage) for stage in (first, second, third))
        self.decoder = nn.ModuleList(
            nn.Sequential(*_deconv(width, width), *(layer for _ in range(convs) for layer in _conv(width, width)))
            for convs in (2, 2, 1)
        )
        self.maps = nn.Sequential(*_conv(6 * width, 3))

    def forward(self, images: Tensor, derived: Tensor) -> Tensor:
        """Return the fused image (B, 3, H, W) of derived images (B, 12, H, W); ``images`` is what is looked at."""
        features = [images]
        for stage in (*self.encoder, *self.decoder):
            features.append(stage(features[-1]))
        maps = self.maps(torch.cat(features[1:], dim=1))
        versions = derived[:, 3:].unflatten(1, (3, 3))
        return (maps[:, :, None] * versions).sum(1)


@register(ARCH_REGISTRY)
class GFN(nn.Module):
    """Gated fusion network: a sum of derived images, weighted by confidence maps, at three scales.

    Images of any height and width are taken: as in the published code they are resized to multiples of 8 (bicubic), and
    the result is resized back. The published network has 517,295 parameters; its ``_iter_240000.caffemodel`` is read as
    it is. Derived images depend on means over the whole image, so restoring by tiles is an approximation.

    Args:
        num_feat: channels of the features; the published network has 32.

    Raises:
        OptionError: for fewer than one channel.
    """

    inputs = ("lq",)
    size_multiple = 8
    published_readers: ClassVar = {".caffemodel": read_caffemodel}

    def __init__(self, num_feat: int = 32) -> None:
        super().__init__()
        if num_feat < 1:
            raise OptionError(f"GFN: num_feat must be at least 1; got {num_feat}")
        self.scales = nn.ModuleList(
            # The second stage is twice as wide at the coarsest scale alone, which looks at derived images only.
            GatedScale(15 if index else 12, num_feat, num_feat if index else 2 * num_feat, kernel, dilation)
            for index, (kernel, dilation) in enumerate(_SCALES)
        )
        self.ups = nn.ModuleList(nn.Sequential(*_deconv(3, 3, kernel=4, stride=2)) for _ in _SCALES[1:])

    def forward(self, lq: Tensor) -> dict[str, Tensor]:
        """Remove haze.

        Args:
            lq: hazy images (B, 3, H, W), RGB, [0, 1].

        Returns:
            ``"restored"`` (B, 3, H, W), not clamped; ``"quarter"`` and ``"half"``, the results of the coarser scales
            (B, 3, h/4, w/4) and (B, 3, h/2, w/2) with h and w the next multiples of 8, for training at every scale.

        Raises:
            ShapeError: for images that do not have three channels.
        """
        check_images(lq, 3, "GFN")
        size = lq.shape[-2:]
        whole = [-(-side // self.size_multiple) * self.size_multiple for side in size]
        derived = derived_images(resize_bicubic(lq, whole).clamp(0, 1))
        results: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            reduction = 4 >> index
            here = F.max_pool2d(derived, reduction) if reduction > 1 else derived
            seen = torch.cat((self.ups[index - 1](results[-1]), here), dim=1) if results else here
            results.append(scale(seen, here))
        quarter, half, restored = results
        return {"restored": resize_bicubic(restored, size), "quarter": quarter, "half": half}

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the layer names of the published network (``s1_e1conv1`` ... ``s3_d3conv3``) to ours; others stay."""
        return {_name_here(name): tensor for name, tensor in state.items()}


_LAYER = re.compile(r"s(?P<scale>[123])_(?P<part>[ed])(?P<stage>[123])conv(?P<conv>[123])\.")
_UP = re.compile(r"s(?P<scale>[23])_up[12]\.")


def _name_here(name: str) -> str:
    if match := _UP.match(name):
        return f"ups.{int(match['scale']) - 2}.0.{name[match.end() :]}"
    match = _LAYER.match(name)
    if match is None:
        return name
    scale, stage, layer = int(match["scale"]) - 1, int(match["stage"]) - 1, 2 * (int(match["conv"]) - 1)
    part = {"e": "encoder", "d": "decoder"}[match["part"]]
    module_name = "maps.0" if (part, stage, layer) == ("decoder", 2, 4) else f"{part}.{stage}.{layer}"
    return f"scales.{scale}.{module_name}.{name[match.end() :]}"
