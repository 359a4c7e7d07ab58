"""Parts of hourglass networks for landmarks, with batch normalisation (alone) or without (inside DICNet)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.renaming import Renaming


def conv(in_channels: int, out_channels: int, kernel_size: int, norm: bool, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size (at stride 1), and its batch normalisation if there is one."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
    return [layer, nn.BatchNorm2d(out_channels)] if norm else [layer]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution on half the channels, added to the input; nothing after the sum.

    With normalisation every convolution has its own, and ReLU follows the first two. Without it, ReLU follows the first
    one only: so the published network is, and its weights want it so.

    Args:
        in_channels: of the input.
        out_channels: of the output; where it differs, a 1x1 convolution projects the input that is added back.
        norm: batch normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.body = nn.Sequential(
            *conv(in_channels, half, 1, norm),
            nn.ReLU(inplace=True),
            *conv(half, half, 3, norm),
            *([nn.ReLU(inplace=True)] if norm else []),
            *conv(half, out_channels, 1, norm),
        )
        self.project = nn.Sequential(*conv(in_channels, out_channels, 1, norm) if in_channels != out_channels else ())

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', H, W)."""
        return self.project(features) + self.body(features)


class _Level(nn.Module):
    """One resolution of an hourglass: the way across, the way down and the way up."""

    def __init__(self, make_block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.across = make_block()
        self.down = make_block()
        self.up = make_block()


class Hourglass(nn.Module):
    """Down by max-pooling and up by interpolation, with a way across at each resolution.

    Args:
        make_block: builds a block that keeps channels and size.
        levels: halvings of the resolution; both sides of the input are multiples of ``2**levels``.
        nearest: go up by nearest neighbours, as FSRNet does, instead of bilinear with aligned corners.
    """

    def __init__(self, make_block: Callable[[], nn.Module], levels: int, nearest: bool = False) -> None:
        super().__init__()
        self.enlarging = {"mode": "nearest"} if nearest else {"mode": "bilinear", "align_corners": True}
        self.levels = nn.ModuleList(_Level(make_block) for _ in range(levels))
        self.centre = make_block()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        kept: list[Tensor] = []
        levels = cast("list[_Level]", list(self.levels))
        for level in levels:
            kept.append(level.across(features))
            features = level.down(F.max_pool2d(features, 2))
        features = self.centre(features)
        for level in reversed(levels):
            enlarged = F.interpolate(level.up(features), size=kept[-1].shape[-2:], **self.enlarging)
            features = kept.pop() + enlarged
        return features


def make_stem(in_channels: int, out_channels: int, norm: bool) -> nn.Sequential:
    """Return the layers that take an image (B, C, H, W) to features (B, C', H/4, W/4)."""
    return nn.Sequential(
        *conv(in_channels, 64, 7, norm, stride=2),
        nn.ReLU(inplace=True),
        Bottleneck(64, 128, norm),
        nn.MaxPool2d(2),
        Bottleneck(128, 128, norm),
        Bottleneck(128, out_channels, norm),
    )


#: Published name of a part -> ours, wherever it occurs.
_NAMES = Renaming(
    (r"\bpre_conv_block\.", "stem."),
    (r"\bconv_block\.", "body."),
    (r"\bskip_layer\.(?=\d)", "project."),
    (r"\bskip_layer\.", "project.0."),
    (r"\bres_center\.", "centre."),
)
_WAYS = {"1": "across", "2": "down", "3": "up"}


def rename_hourglass(state: Mapping[str, Tensor], levels: int = 4) -> dict[str, Tensor]:
    """Return ``state`` with the parts that published hourglass networks share under our names.

    Args:
        state: tensors by published name.
        levels: of each hourglass.
    """
    return {_rename(name, levels): value for name, value in state.items()}


def _rename(name: str, levels: int) -> str:
    # There, levels are counted from the innermost, 1 to 4.
    return re.sub(r"\bres(\d)_(\d)\.", lambda m: f"levels.{levels - int(m[1])}.{_WAYS[m[2]]}.", _NAMES(name))
