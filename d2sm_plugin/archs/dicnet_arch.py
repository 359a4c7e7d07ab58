"""DICNet: face super-resolution by 8 that takes turns with landmark detection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images
from d2sm_plugin.archs.dicnet_blocks import (
    PROJECTIONS,
    FeedbackBlock,
    merge_heatmaps,
    prelu_conv,
    prelu_transposed,
)
from d2sm_plugin.archs.face_images import FACE_MEAN, check_multiple
from d2sm_plugin.archs.hourglass_blocks import Bottleneck, Hourglass, make_stem, rename_hourglass
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError
from d2sm_plugin.faces.landmarks import point_set
from d2sm_plugin.registry import ARCH_REGISTRY, register
from d2sm_plugin.weights import load_weights

_SCALE = 8
_LEVELS = 4


class FeedbackHourglass(nn.Module):
    """Hourglass that finds landmarks and remembers features from one step to the next (11,999,172 parameters).

    Args:
        num_points: landmarks.
        channels: of the features; the hourglass has twice as many.
    """

    def __init__(self, num_points: int, channels: int = 256) -> None:
        super().__init__()
        self.stem = make_stem(3, channels, norm=False)
        self.compress_in = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.hourglass = Hourglass(partial(Bottleneck, 2 * channels, 2 * channels, norm=False), _LEVELS)
        self.predict = nn.Sequential(
            Bottleneck(channels, channels, norm=False),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_points, 1),
        )

    def forward(self, images: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Find landmarks.

        Args:
            images: (B, 3, H, W), shifted by the mean colour; H and W multiples of 64.
            hidden: what the last step returned (B, C, H/4, W/4); None at the first step.

        Returns:
            Heatmaps (B, P, H/4, W/4) and the features for the next step.
        """
        features = self.stem(images)
        joint = torch.cat((features, features if hidden is None else hidden), dim=1)
        heatmaps, hidden = self.hourglass(self.compress_in(joint)).chunk(2, dim=1)
        return self.predict(heatmaps), hidden

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint of the hourglass alone, or of a whole DICNet, as this one's.

        Other names pass unchanged.
        """
        whole = {name: value for name, value in state.items() if name.startswith(("HG.", "aligner."))}
        named = whole or {f"HG.{name}": value for name, value in state.items()}
        converted = DICNet.convert_state_dict(named)
        return {re.sub(r"^(aligner|HG)\.", "", name): value for name, value in converted.items()}


@register(ARCH_REGISTRY)
class DICNet(nn.Module):
    """DICNet (Ma et al.: "Deep face super-resolution with iterative collaboration ...", CVPR 2020), x8.

    A recurrent network restores the face, a recurrent hourglass finds its landmarks, and from the second step on the
    landmarks of the step before tell the restoration where eyes, nose and mouth are. The defaults are the published
    network (21,803,849 parameters, 16x16 to 128x128).

    Initial values of the restoration: Kaiming-normal by fan-in and zero biases, PReLU slopes 0.2. The hourglass, which
    the publication never trains from the start, keeps PyTorch's smaller ones: as it has no normalisation, Kaiming's
    would let its residual blocks multiply the variance by five each, and the alignment drown the other objectives.

    Args:
        points: set of landmarks, which decides their number and the facial components: ``ibug68``, ``helen29``.
        num_feat: channels of the restoration.
        num_steps: steps, one at least.
        num_groups: pairs of projections of the feedback blocks.
        projection: factor of these, 2, 4 or 8. They work on a map of twice the input's size, so the published 8 makes
            them run at twice the size of the restored image; 4 makes them run at its size, for a quarter of the work.
        num_fusion_blocks: residual blocks of the component fusion.
        num_hourglass_feat: channels of the hourglass, an even number.
        detach_attention: do not train the hourglass through the attention it gives (published: false).
        hourglass_weights: path of an hourglass trained before, which the published training starts from
            (``FB_HG_68_CelebA.pth``); None for random values.

    Raises:
        OptionError: for an unknown set of landmarks or another ``projection``.
        CheckpointError: when ``hourglass_weights`` cannot be read or do not fit.
    """

    size_multiple = 8

    def __init__(
        self,
        points: Literal["ibug68", "helen29"] = "ibug68",
        num_feat: Count = 48,
        num_steps: Count = 4,
        num_groups: Count = 6,
        projection: Literal[2, 4, 8] = 8,
        num_fusion_blocks: Count = 7,
        num_hourglass_feat: Count = 256,
        detach_attention: bool = False,
        hourglass_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        scheme = point_set(points, "DICNet.points")
        if projection not in PROJECTIONS:
            raise OptionError(
                f"DICNet.projection: expected one of {', '.join(map(str, PROJECTIONS))}, got {projection}"
            )
        self.num_points = scheme.count
        self.components = [list(numbers) for numbers in scheme.components.values()]
        self.num_steps = num_steps
        self.detach_attention = detach_attention
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = prelu_conv(3, 4 * num_feat, 3, padding=1)
        self.first_block = FeedbackBlock(num_feat, num_feat, num_groups, projection)
        self.block = FeedbackBlock(
            2 * num_feat, num_feat, num_groups, projection, len(self.components), num_fusion_blocks
        )
        self.upsample = prelu_transposed(num_feat, kernel_size=8, stride=4, padding=2)
        self.tail = nn.Conv2d(num_feat, 3, 3, padding=1)
        self.apply(_initialise)
        self.aligner = FeedbackHourglass(self.num_points, num_hourglass_feat)
        if hourglass_weights is not None:
            load_weights(self.aligner, hourglass_weights)

    def forward(self, lq: Tensor) -> dict[str, Tensor]:
        """Restore faces.

        Args:
            lq: faces (B, 3, h, w), [0, 1], RGB; h and w multiples of 8 (16 in the publication).

        Returns:
            ``"restored"`` (B, 3, 8h, 8w), not clamped, of the last step; ``"steps"`` (T, B, 3, 8h, 8w) of all steps;
            ``"heatmaps"`` (T, B, P, 2h, 2w), the landmarks found after each step.

        Raises:
            ShapeError: for another number of channels, or a size that is no multiple of 8.
        """
        check_images(lq, 3, "DICNet")
        check_multiple(lq, self.size_multiple, "DICNet")
        shifted = lq - self.mean
        base = F.interpolate(shifted, scale_factor=_SCALE, mode="bilinear", align_corners=False)
        shallow = F.pixel_shuffle(self.head(shifted), 2)
        images: list[Tensor] = []
        heatmaps: list[Tensor] = []
        hidden, remembered = self.first_block(shallow), None
        for step in range(self.num_steps):
            if step:
                seen = heatmaps[-1].detach() if self.detach_attention else heatmaps[-1]
                components = merge_heatmaps(seen, self.components)
                hidden = self.block(torch.cat((shallow, hidden), dim=1), components)
            images.append(base + self.tail(self.upsample(hidden)))
            aligned, remembered = self.aligner(images[-1], remembered)
            heatmaps.append(aligned)
        return {
            "restored": images[-1] + self.mean,
            "steps": torch.stack(images) + self.mean,
            "heatmaps": torch.stack(heatmaps),
        }

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint (``HG.hg.res4_1...``) under this network's names.

        Other names pass unchanged.
        """
        return {_name_here(name): value for name, value in rename_hourglass(state).items()}


#: Published prefix -> ours, tried in this order after the parts that hourglasses share.
_PREFIXES = (
    (r"conv_in\.", "head."),
    (r"out\.", "upsample."),
    (r"conv_out\.0\.", "tail."),
    (r"HG\.hg_conv_out\.0\.", "aligner.predict.0."),
    (r"HG\.hg_conv_out\.1\.body\.0\.", "aligner.predict.1."),
    (r"HG\.hg_conv_out\.2\.", "aligner.predict.3."),
    (r"HG\.hg\.", "aligner.hourglass."),
    (r"HG\.", "aligner."),
    (r"(first_block|block)\.upBlocks\.", r"\1.ups."),
    (r"(first_block|block)\.downBlocks\.", r"\1.downs."),
    (r"(first_block|block)\.uptranBlocks\.", r"\1.merge_low."),
    (r"(first_block|block)\.downtranBlocks\.", r"\1.merge_high."),
    (r"block\.fusion_block\.conv_in\.", "block.fusion.expand."),
    (r"block\.fusion_block\.resnet\.(\d+)\.res\.", r"block.fusion.blocks.\1."),
)


def _name_here(name: str) -> str:
    for published, prefix in _PREFIXES:
        renamed, count = re.subn(f"^{published}", prefix, name)
        if count:
            return renamed
    return name


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
