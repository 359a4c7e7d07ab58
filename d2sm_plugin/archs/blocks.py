"""Building blocks that several networks share: padding and resizing, convolutions with activation, residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, arange, cat, nn

from d2sm_plugin.errors import OptionError, ShapeError, suggest

#: Slope of the negative half of every leaky ReLU in the published networks of this package, unless they say otherwise.
LEAKY_SLOPE = 0.2

_ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    "prelu": nn.PReLU,
    "none": nn.Identity,
}


def check_images(images: Tensor, channels: int, network: str) -> None:
    """Check that a network got a batch of images with the number of channels it was built for.

    Raises:
        ShapeError: for anything but a tensor (B, ``channels``, H, W) with H, W >= 1.
    """
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
        raise ShapeError(
            f"{network}: expected images of shape (B, {channels}, H, W), got {tuple(images.shape)}; give images with "
            f"{channels} channel(s), or build the network for the channels the images have"
        )


def pad_to_multiple(images: Tensor, multiple: int, mode: str = "replicate") -> Tensor:
    """Pad images at the bottom and the right until both sides are multiples of ``multiple``.

    Undo it by cropping: ``output[..., :height, :width]``.

    Args:
        images: (B, C, H, W), any H and W.
        multiple: the padded sides are the next multiples of this number.
        mode: ``"replicate"`` repeats the last row and column; ``"symmetric"`` mirrors the image with its last row and
            column included, and goes on mirroring where an image is smaller than the padding.

    Returns:
        (B, C, H', W'); ``images`` itself where nothing has to be padded.

    Raises:
        OptionError: for an unknown ``mode``.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if mode == "replicate":
        return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images
    if mode == "symmetric":  # not among torch's own modes: its "reflect" leaves the edge out
        for axis, padding in ((-2, bottom), (-1, right)):
            if padding:
                images = _mirror_end(images, axis, padding)
        return images
    raise OptionError(f"padding mode '{mode}' is unknown{suggest(mode, ('replicate', 'symmetric'))}")


def _mirror_end(images: Tensor, axis: int, padding: int) -> Tensor:
    size = images.shape[axis]
    position = arange(size + padding, device=images.device) % (2 * size)
    return images.index_select(axis, position.minimum(2 * size - 1 - position))


def resize_bicubic(images: Tensor, size: Sequence[int]) -> Tensor:
    """Return images (B, C, H, W) resized to ``size`` (height, width); ``images`` itself where it has that size."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bicubic", align_corners=False)


def make_activation(name: str) -> nn.Module:
    """Return a new activation module: ``"relu"``, ``"leaky_relu"`` (slope 0.2), ``"prelu"`` or ``"none"``.

    Raises:
        OptionError: for an unknown name.
    """
    if name not in _ACTIVATIONS:
        raise OptionError(f"activation '{name}' is unknown{suggest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def conv_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "relu",
) -> nn.Sequential:
    """Return a convolution with bias, then an activation: tensors ``0.weight`` and ``0.bias``.

    Odd kernels are padded with zeros so that stride 1 keeps the size; even kernels (2x2, stride 2) are not padded.
    """
    padding = dilation * (kernel_size // 2) if kernel_size % 2 else 0
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation)
    return nn.Sequential(conv, make_activation(activation))


def reflect_conv(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Return a convolution with reflection padding of half a kernel, so that stride 1 keeps the size."""
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias, padding_mode="reflect")


def conv_stack(channels: list[int], activation: str = "relu", last_activation: str | None = None) -> nn.Sequential:
    """Return 3x3 convolutions in a row, each with its activation: ``conv_stack([6, 64, 64])`` has two.

    Args:
        channels: of the input, then of every convolution's output.
        activation: after every convolution.
        last_activation: after the last convolution, where it differs.
    """
    kinds = [activation] * (len(channels) - 1)
    kinds[-1] = last_activation or activation
    layers = zip(pairwise(channels), kinds, strict=True)
    return nn.Sequential(*(conv_act(before, after, activation=kind) for (before, after), kind in layers))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with an activation between them, added to the input; nothing after the sum.

    Args:
        in_channels: of the input.
        out_channels: of the output; where it differs, a 1x1 convolution projects the input first, and the projected
            input is what is added back.
        activation: see :func:`make_activation`.
        scale: factor on the branch before it is added.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, activation: str = "relu", scale: float = 1.0
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        self.scale = scale
        self.project = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.activation = make_activation(activation)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', H, W)."""
        features = self.project(features)
        branch = self.conv2(self.activation(self.conv1(features)))
        return features + (branch if self.scale == 1.0 else branch * self.scale)


class ResidualDenseBlock(nn.Module):
    """``x + conv1x1([x, y1, ..., yn])`` where ``yi = relu(conv3x3([x, y1, ..., y(i-1)]))``.

    Args:
        channels: of input and output.
        growth: channels that each 3x3 layer adds.
        layers: number of 3x3 layers.
        bias: of every convolution.
    """

    def __init__(self, channels: int, growth: int, layers: int = 4, bias: bool = True) -> None:
        super().__init__()
        widths = range(channels, channels + layers * growth, growth)
        self.layers = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=bias) for width in widths)
        self.merge = nn.Conv2d(channels + layers * growth, channels, 1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        dense = features
        for layer in self.layers:
            dense = cat((dense, layer(dense).relu()), dim=1)
        return features + self.merge(dense)
