"""Stacked hourglass network that finds landmarks in faces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images
from d2sm_plugin.archs.face_images import FACE_MEAN, check_multiple
from d2sm_plugin.archs.hourglass_blocks import Bottleneck, Hourglass, conv, make_stem, rename_hourglass
from d2sm_plugin.argument_types import Count
from d2sm_plugin.registry import ARCH_REGISTRY, register

_LEVELS = 4


class _Stack(nn.Module):
    """One hourglass, its heatmaps, and what it hands on to the next."""

    def __init__(self, channels: int, num_points: int, last: bool) -> None:
        super().__init__()
        self.hourglass = Hourglass(partial(Bottleneck, channels, channels, norm=True), _LEVELS)
        self.refine = Bottleneck(channels, channels, norm=True)
        self.linear = nn.Sequential(*conv(channels, channels, 1, norm=True), nn.ReLU(inplace=True))
        self.predict = nn.Conv2d(channels, num_points, 1)
        self.pass_features = None if last else nn.Conv2d(channels, channels, 1)
        self.pass_heatmaps = None if last else nn.Conv2d(num_points, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        refined = self.linear(self.refine(self.hourglass(features)))
        heatmaps = self.predict(refined)
        if self.pass_features is not None and self.pass_heatmaps is not None:
            features = features + self.pass_features(refined) + self.pass_heatmaps(heatmaps)
        return heatmaps, features


@register(ARCH_REGISTRY)
class StackedHourglass(nn.Module):
    """Stacked hourglass (Newell et al.: "Stacked hourglass networks for human pose estimation", ECCV 2016).

    With its defaults it is the network by which DICNet's authors measure landmark errors (12,952,848 parameters);
    their ``HG_68_CelebA.pth`` loads.

    Args:
        num_points: landmarks to find.
        num_stack: hourglasses in a row.
        num_feat: channels, an even number.

    Raises:
        OptionError: from the layers, for sizes that cannot be built.
    """

    #: It restores nothing; the images that landmarks are to be found in come in ``gt``.
    inputs = ("gt",)
    size_multiple = 4 * 2**_LEVELS

    def __init__(self, num_points: Count = 68, num_stack: Count = 4, num_feat: Count = 256) -> None:
        super().__init__()
        self.num_points = num_points
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.stem = make_stem(3, num_feat, norm=True)
        self.stacks = nn.ModuleList(_Stack(num_feat, num_points, n == num_stack - 1) for n in range(num_stack))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Find landmarks.

        Args:
            images: faces (B, 3, H, W), [0, 1], RGB; H and W multiples of 64.

        Returns:
            ``"heatmaps"`` (B, P, H/4, W/4) of the last stack, not bounded; ``"stacks"`` (T, B, P, H/4, W/4) of all;
            ``"restored"``: the images, as networks of this package name an output so.

        Raises:
            ShapeError: for another number of channels or another size.
        """
        check_images(images, 3, "StackedHourglass")
        check_multiple(images, self.size_multiple, "StackedHourglass")
        features = self.stem(images - self.mean)
        predicted = []
        for stack in self.stacks:
            heatmaps, features = stack(features)
            predicted.append(heatmaps)
        return {"restored": images, "heatmaps": predicted[-1], "stacks": torch.stack(predicted)}

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint (``hg0.res4_1...``) under this network's names.

        Other names pass unchanged.
        """
        return {_name_here(name): value for name, value in rename_hourglass(state).items()}


_PARTS = {
    "": "hourglass",
    "_res1": "refine",
    "_lin1.body": "linear",
    "_conv_pred": "predict",
    "_conv1": "pass_features",
    "_conv2": "pass_heatmaps",
}


def _name_here(name: str) -> str:
    match = re.fullmatch(r"hg(\d)(|_res1|_lin1\.body|_conv_pred|_conv1|_conv2)\.(.+)", name)
    return f"stacks.{match[1]}.{_PARTS[match[2]]}.{match[3]}" if match else name
