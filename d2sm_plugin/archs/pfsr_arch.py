"""PFSR, face super-resolution that grows from 32x32 to 128x128 while it is trained, and its discriminator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import LEAKY_SLOPE, check_images
from d2sm_plugin.archs.renaming import Pattern, Renaming
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.registry import ARCH_REGISTRY, register

_GROWTH = "_extra_state"


class EqualisedConv(nn.Conv2d):
    """3x3 convolution whose weight is scaled by ``sqrt(2 / fan_in)`` when it is used, not when it starts.

    Weights start normal with deviation 1, so an optimiser such as Adam moves all layers alike (Karras et al., ICLR
    2018).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        assert self.bias is not None
        self.scale = math.sqrt(2 / (9 * in_channels))
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', H, W)."""
        return F.conv2d(features, self.weight * self.scale, self.bias, padding=1)


class GrowingNetwork(nn.Module):
    """Base of networks that grow in stages while they are trained.

    The stage in use and how far it has faded in are saved with the weights, so a network restores as it was trained.

    Attributes:
        num_stages: of the whole network.
        stage: in use, from 1.
        fade: share of the newest stage in the output, 0 to 1; the rest comes from the stage before.
    """

    num_stages = 3

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.fade = self.num_stages, 1.0

    def grow(self, stage: int, fade: float) -> None:
        """Set the stage in use (1 to ``num_stages``) and its share in the output (0 to 1)."""
        self.stage, self.fade = stage, fade

    def get_extra_state(self) -> Tensor:
        """Return stage and fade, to be saved with the weights."""
        return torch.tensor([self.stage, self.fade], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take back what :meth:`get_extra_state` returned."""
        stage, fade = state.tolist()
        self.grow(int(stage), fade)


def _mix(old: Tensor, new: Tensor, fade: float) -> Tensor:
    return (1 - fade) * old + fade * new


class _ResidualBlock(nn.Module):
    """Two convolutions, each with batch normalisation and ReLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(layer for _ in range(2) for layer in _norm_relu(EqualisedConv(channels, channels))))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


def _norm_relu(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]


@register(ARCH_REGISTRY)
class PFSR(GrowingNetwork):
    """PFSR's generator (Kim et al.: "Progressive face super-resolution via attention to facial landmark", BMVC 2019).

    Each of three stages doubles the size; the restored face is that of the stage in use, mixed with the enlarged one of
    the stage before while it fades in (8,969,097 parameters). Published files (``step1.0.weight`` ...) load; they are
    taken for whole, as the authors' final one is.

    In evaluation mode a face of an earlier stage is enlarged to the full size (nearest neighbours), so it can be
    measured and seen at any time.

    Args:
        num_feat: channels of the first convolution, 8 at least; every stage halves them.
    """

    size_multiple = 1

    def __init__(self, num_feat: Count = 512) -> None:
        super().__init__()
        widths = [num_feat >> stage for stage in range(self.num_stages + 1)]
        self.head = nn.Sequential(*_norm_relu(nn.Conv2d(3, num_feat, 3, padding=1)))
        self.stages = nn.ModuleList(
            nn.Sequential(_ResidualBlock(before), *_norm_relu(nn.ConvTranspose2d(before, after, 4, 2, 1)))
            for before, after in pairwise(widths)
        )
        self.to_rgb = nn.ModuleList(nn.Conv2d(width, 3, 1) for width in widths[1:])

    def forward(self, lq: Tensor) -> Tensor:
        """Restore faces.

        Args:
            lq: small faces (B, 3, h, w), [0, 1], RGB; any size, 16x16 in the publication.

        Returns:
            (B, 3, s*h, s*w), not clamped: s is 8 in evaluation mode, in training 2, 4 or 8 by the stage.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, 3, "PFSR")
        features = before = self.head(2 * lq - 1)
        for stage in self.stages[: self.stage]:
            features, before = stage(features), features
        rgb = self.to_rgb[self.stage - 1](features)
        if self.stage > 1 and self.fade < 1:
            rgb = _mix(_enlarge(self.to_rgb[self.stage - 2](before), 2), rgb, self.fade)
        if not self.training:
            rgb = _enlarge(rgb, 2 ** (self.num_stages - self.stage))
        return (rgb + 1) / 2

    @classmethod
    def convert_state_dict(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint under this network's names.

        Other names pass unchanged.
        """
        names = (
            (r"^step1\.([01])\.", r"head.\1."),
            (r"^step1\.([345])\.", lambda match: f"stages.0.{int(match[1]) - 3}."),
            (r"^step([23])\.", lambda match: f"stages.{int(match[1]) - 1}."),
            (r"\.conv\.(?=\d)", ".body."),
        )
        return _convert(state, names, cls.num_stages)


@register(ARCH_REGISTRY)
class PFSRDiscriminator(GrowingNetwork):
    """PFSR's discriminator, which grows with its generator (8,065,537 parameters).

    It sees the images' spread over the batch, so every batch needs two at least.

    Args:
        num_feat: channels in front, where faces have the full size; every stage doubles them.
        num_hidden: width of the linear layer.
    """

    def __init__(self, num_feat: Count = 64, num_hidden: Count = 2048) -> None:
        super().__init__()
        widths = [num_feat << stage for stage in reversed(range(self.num_stages + 1))]
        self.from_rgb = nn.ModuleList(nn.Conv2d(3, width, 1) for width in widths[1:])
        self.stages = nn.ModuleList(_make_halving(after, before) for before, after in pairwise(widths))
        self.join = EqualisedConv(widths[0] + 1, widths[0])
        self.classifier = nn.Sequential(nn.Linear(widths[0], num_hidden), nn.Linear(num_hidden, 1))

    def forward(self, faces: Tensor) -> Tensor:
        """Return one value (B, 1), not bounded, for each face (B, 3, H, W) in [0, 1], high for real ones.

        Args:
            faces: of the size of the stage in use: 32x32, 64x64 or 128x128 in the publication.

        Raises:
            ShapeError: for another number of channels, or a batch of one.
        """
        check_images(faces, 3, "PFSRDiscriminator")
        if len(faces) < 2:
            raise ShapeError("PFSRDiscriminator: expected two faces at least, for their spread over the batch; got one")
        images = 2 * faces - 1
        features = self.stages[self.stage - 1](self.from_rgb[self.stage - 1](images))
        if self.stage > 1 and self.fade < 1:
            features = _mix(self.from_rgb[self.stage - 2](F.avg_pool2d(images, 2)), features, self.fade)
        for stage in reversed(self.stages[: self.stage - 1]):
            features = stage(features)
        spread = images.std(0).mean().expand(len(images), 1, *features.shape[2:])
        joint = self.join(torch.cat((features, spread), dim=1))
        return self.classifier(joint.mean((2, 3)))

    @classmethod
    def convert_state_dict(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint under this network's names.

        Other names pass unchanged.
        """
        names = (
            (r"^step([123])\.0\.conv\.", lambda match: f"stages.{int(match[1]) - 1}."),
            (r"^equal_conv\.", "join."),
            (r"^linear\.", "classifier.0."),
            (r"^linear2\.", "classifier.1."),
        )
        return _convert(state, names, cls.num_stages)


def _make_halving(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, out_channels):
        layers += [EqualisedConv(before, out_channels), nn.LeakyReLU(LEAKY_SLOPE)]
    return nn.Sequential(*layers, nn.AvgPool2d(2))


def _enlarge(images: Tensor, factor: int) -> Tensor:
    return images if factor == 1 else F.interpolate(images, scale_factor=factor, mode="nearest")


#: Published name of what an equalised convolution holds -> ours.
_EQUALISED = ((r"\.conv\.weight_orig$", ".weight"), (r"\.conv\.bias$", ".bias"))


def _convert(state: Mapping[str, Tensor], names: Sequence[Pattern], num_stages: int) -> dict[str, Tensor]:
    """Rename what a published checkpoint holds; its growth, which is beside the tensors there, is complete."""
    if _GROWTH in state:
        return dict(state)
    growth = {_GROWTH: torch.tensor([num_stages, 1.0], dtype=torch.float64)}
    return growth | Renaming(*_EQUALISED, *names).tensors(state)
