"""The trunk of LightCNN-9, which recognises faces, criticises them in DICGAN and measures features there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import ShapeError


class MaxFeatureMap(nn.Module):
    """A layer with twice the outputs, halved by the elementwise maximum of its first and second half of channels.

    Args:
        layer: convolution or linear layer with an even number of outputs.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.filter = layer

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, ...) to (B, C', ...)."""
        first, second = self.filter(features).chunk(2, dim=1)
        return torch.maximum(first, second)


def mfm_conv(in_channels: int, out_channels: int, kernel_size: int) -> MaxFeatureMap:
    """Return a max-feature-map convolution that keeps the size."""
    return MaxFeatureMap(nn.Conv2d(in_channels, 2 * out_channels, kernel_size, padding=kernel_size // 2))


def mfm_linear(in_features: int, out_features: int) -> MaxFeatureMap:
    """Return a max-feature-map linear layer."""
    return MaxFeatureMap(nn.Linear(in_features, 2 * out_features))


class _Group(nn.Module):
    """A 1x1 max-feature-map convolution that keeps the channels, then a 3x3 one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = mfm_conv(in_channels, in_channels, 1)
        self.conv = mfm_conv(in_channels, out_channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(self.conv_a(features))


#: Side of the faces in pixels, and number of values of the last map (128x8x8).
FACE_SIZE = 128
TRUNK_VALUES = 128 * (FACE_SIZE // 16) ** 2
#: Width of the face descriptor.
DESCRIPTOR = 256


def check_faces(faces: Tensor, channels: int, network: str) -> None:
    """Check that faces have the one size that the linear layer behind the trunk takes.

    Raises:
        ShapeError: for anything but (B, ``channels``, 128, 128).
    """
    if faces.ndim != 4 or tuple(faces.shape[1:]) != (channels, FACE_SIZE, FACE_SIZE):
        raise ShapeError(
            f"{network}: expected faces (B, {channels}, {FACE_SIZE}, {FACE_SIZE}), got {tuple(faces.shape)}; crop or "
            f"resize them to {FACE_SIZE}x{FACE_SIZE}"
        )


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, stride=2, ceil_mode=True)


def make_trunk(in_channels: int) -> nn.Sequential:
    """Return the convolutional part: faces (B, C, 128, 128) to features (B, 128, 8, 8).

    Its tensors have the published names (``0.filter.weight``, ``2.conv_a.filter.weight``, ...).
    """
    return nn.Sequential(
        mfm_conv(in_channels, 48, 5),
        _pool(),
        _Group(48, 96),
        _pool(),
        _Group(96, 192),
        _pool(),
        _Group(192, 128),
        _Group(128, 128),
        _pool(),
    )
