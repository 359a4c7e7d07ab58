"""CBDNet: estimates a noise map, then restores with it; in the official layout and that of the common PyTorch port."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images, conv_stack, pad_to_multiple
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.registry import ARCH_REGISTRY, register

#: Layouts, and the radius of their receptive field in pixels.
_LAYOUTS = {"official": 55, "port": 45}


@register(ARCH_REGISTRY)
class CBDNet(nn.Module):
    """CBDNet (Guo et al.: "Toward convolutional blind denoising of real photographs", CVPR 2019).

    Five convolutions estimate a map of noise levels (one per pixel and channel, never negative); image and map enter
    a U-shaped network of three scales, whose result is added to the noisy image.

    Two layouts circulate under this name, with the same estimator (29,507 parameters) and different U-shaped parts:

    * ``"official"``: the authors' MATLAB release; scales are changed by 2x2 convolutions of stride 2 followed by 1x1
      ones. 6,793,478 parameters in all. Images are mirrored at the bottom and the right up to multiples of 4 and the
      result is cropped, as in the release's test programs.
    * ``"port"``: the common PyTorch port (IDKiro/CBDNet-pytorch); average pooling, fewer channels, 4,365,382
      parameters. Any size without padding of the image: where a coarser scale has lost an odd row or column, zeros
      take its place.

    The objectives of the paper on the noise map are ``AsymmetricNoiseLoss`` and ``TVLoss``.

    Args:
        num_in_ch: channels of the noisy image; the noise map has as many.
        num_out_ch: channels of the restored image; the noisy image is added to it, so it must equal ``num_in_ch``.
        num_feat: channels at full resolution; 64 in both published layouts. Coarser scales have 2 and 4 times as many.
        layout: ``"official"`` or ``"port"``.

    Raises:
        OptionError: for an unknown layout, or different numbers of channels.
    """

    size_multiple = 4

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 64,
        layout: Literal["official", "port"] = "official",
    ) -> None:
        super().__init__()
        if layout not in _LAYOUTS:
            raise OptionError(f"CBDNet: layout '{layout}' is unknown{suggest(layout, _LAYOUTS)}")
        if num_in_ch != num_out_ch:
            raise OptionError(
                f"CBDNet adds the noisy image to its result, so num_in_ch ({num_in_ch}) and num_out_ch ({num_out_ch}) "
                f"must be equal"
            )
        self.num_in_ch = num_in_ch
        self.layout = layout
        self.receptive_radius = _LAYOUTS[layout]
        self.estimator = conv_stack([num_in_ch, 32, 32, 32, 32, num_in_ch])
        unet = _OfficialUNet if layout == "official" else _PortUNet
        self.unet = unet(2 * num_in_ch, num_out_ch, num_feat)

    def forward(self, lq: Tensor) -> dict[str, Tensor]:
        """Restore noisy images.

        Args:
            lq: noisy images (B, C, H, W), [0, 1], RGB where C = 3; any H and W (the port's layout: at least 4).

        Returns:
            ``restored`` (B, C, H, W), not clamped, and ``noise_map`` (B, C, H, W), the estimated noise level of every
            value in the images' unit (noise level / 255), >= 0.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, self.num_in_ch, "CBDNet")
        height, width = lq.shape[-2:]
        images = pad_to_multiple(lq, self.size_multiple, "symmetric") if self.layout == "official" else lq
        noise_map = self.estimator(images)
        restored = images + self.unet(torch.cat((images, noise_map), dim=1))
        return {"restored": restored[..., :height, :width], "noise_map": noise_map[..., :height, :width]}

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint under this network's names.

        Known are the names of the official network as converted from MATLAB (``E01.weight``, ``DS01_layer00.weight``,
        ..., for ``layout="official"``) and those of the port (``fcn.fcn.0.weight``, ``unet.inc.0.conv.0.weight``, ...,
        for ``layout="port"``). Other names pass unchanged.
        """
        if "E01.weight" in state:
            return {_official_name(name): value for name, value in state.items()}
        if "fcn.fcn.0.weight" in state:
            return {_port_name(name): value for name, value in state.items()}
        return dict(state)


class _OfficialUNet(nn.Module):
    """The U-shaped part of the official layout; both sides of its input must be multiples of 4."""

    def __init__(self, in_channels: int, out_channels: int, feat: int) -> None:
        super().__init__()
        self.scale1 = conv_stack([in_channels, *[feat] * 4])
        self.down1 = _strided_down(feat, 2 * feat)
        self.scale2 = conv_stack([2 * feat] * 4)
        self.down2 = _strided_down(2 * feat, 4 * feat)
        self.scale3 = conv_stack([*[4 * feat] * 7, 8 * feat])
        self.up2 = nn.ConvTranspose2d(8 * feat, 2 * feat, 2, stride=2, bias=False)
        self.merge2 = conv_stack([*[2 * feat] * 3, 4 * feat])
        self.up1 = nn.ConvTranspose2d(4 * feat, feat, 2, stride=2, bias=False)
        self.merge1 = conv_stack([*[feat] * 3, out_channels], last_activation="none")

    def forward(self, images: Tensor) -> Tensor:
        fine = self.scale1(images)
        middle = self.scale2(self.down1(fine))
        coarse = self.scale3(self.down2(middle))
        middle = self.merge2(self.up2(coarse) + middle)
        return self.merge1(self.up1(middle) + fine)


class _PortUNet(nn.Module):
    """The U-shaped part of the PyTorch port."""

    def __init__(self, in_channels: int, out_channels: int, feat: int) -> None:
        super().__init__()
        self.scale1 = conv_stack([in_channels, feat, feat])
        self.scale2 = conv_stack([feat, *[2 * feat] * 3])
        self.scale3 = conv_stack([2 * feat, *[4 * feat] * 6])
        self.up2 = nn.ConvTranspose2d(4 * feat, 2 * feat, 2, stride=2)
        self.merge2 = conv_stack([2 * feat] * 4)
        self.up1 = nn.ConvTranspose2d(2 * feat, feat, 2, stride=2)
        self.merge1 = conv_stack([feat] * 3)
        self.last = nn.Conv2d(feat, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.scale1(images)
        middle = self.scale2(F.avg_pool2d(fine, 2))
        coarse = self.scale3(F.avg_pool2d(middle, 2))
        middle = self.merge2(_add_at_centre(middle, self.up2(coarse)))
        return self.last(self.merge1(_add_at_centre(fine, self.up1(middle))))


def _strided_down(in_channels: int, out_channels: int) -> nn.Sequential:
    """Halve the resolution: 2x2 convolution of stride 2 to twice the channels wanted, then 1x1; no activations."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 2 * out_channels, 2, stride=2), nn.Conv2d(2 * out_channels, out_channels, 1)
    )


def _add_at_centre(skip: Tensor, upsampled: Tensor) -> Tensor:
    """Add ``upsampled`` to the at most one row and column larger ``skip``; what is missing counts as zero."""
    rows, columns = (skip.shape[axis] - upsampled.shape[axis] for axis in (-2, -1))
    padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return skip + F.pad(upsampled, padding)


#: Official name of a group of layers -> ours, and how many of our stack's layers come before its first one.
_OFFICIAL_STACKS = {
    "DS01": ("unet.scale1", 0),
    "DS02": ("unet.scale2", 0),
    "DS03": ("unet.scale3", 0),
    "UPS03": ("unet.scale3", 3),
    "US02": ("unet.merge2", 0),
    "US01": ("unet.merge1", 0),
}
_OFFICIAL_SINGLE = {
    "DS02": "unet.down1.0",
    "DS02_layer00_cf": "unet.down1.1",
    "DS03": "unet.down2.0",
    "DS03_layer00_cf": "unet.down2.1",
    "USP02": "unet.up2",
    "USP01": "unet.up1",
}
_PORT_STACKS = {
    "inc": "unet.scale1",
    "conv1": "unet.scale2",
    "conv2": "unet.scale3",
    "conv3": "unet.merge2",
    "conv4": "unet.merge1",
}
_PORT_SINGLE = {"unet.up1.up": "unet.up2", "unet.up2.up": "unet.up1", "unet.outc.conv": "unet.last"}


def _official_name(name: str) -> str:
    layer, kind = name.rsplit(".", 1)
    if layer in _OFFICIAL_SINGLE:
        return f"{_OFFICIAL_SINGLE[layer]}.{kind}"
    if estimator := re.fullmatch(r"E(\d\d)", layer):
        return f"estimator.{int(estimator[1]) - 1}.0.{kind}"
    stack = re.fullmatch(r"(\w+)_layer(\d\d)", layer)
    if stack is None or stack[1] not in _OFFICIAL_STACKS:
        return name
    stack_name, first = _OFFICIAL_STACKS[stack[1]]
    return f"{stack_name}.{first + int(stack[2])}.0.{kind}"


def _port_name(name: str) -> str:
    layer, kind = name.rsplit(".", 1)
    if layer in _PORT_SINGLE:
        return f"{_PORT_SINGLE[layer]}.{kind}"
    if estimator := re.fullmatch(r"fcn\.fcn\.(\d+)", layer):
        return f"estimator.{int(estimator[1]) // 2}.0.{kind}"
    stack = re.fullmatch(r"unet\.(\w+)\.(\d+)\.conv\.0", layer)
    return f"{_PORT_STACKS[stack[1]]}.{stack[2]}.0.{kind}" if stack and stack[1] in _PORT_STACKS else name
