"""MSBDN, the dehazing network of the paper's third experiment (section 4.3, Table 3).

Source: Dong et al., "Multi-Scale Boosted Dehazing Network with Dense Feature Fusion", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images, pad_to_multiple, reflect_conv
from d2sm_plugin.archs.msbdn_blocks import (
    DenseFeatureFusion,
    RelaxedFusion,
    Upsample,
    residual_group,
)
from d2sm_plugin.archs.msbdn_names import published_to_own
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.registry import ARCH_REGISTRY, register

#: Fusion modules by variant. "rdff" is the network that the D2SM release names MSBDN.
FUSIONS = {"dff": DenseFeatureFusion, "rdff": RelaxedFusion}
#: Halvings between the finest and the coarsest scale.
LEVELS = 4
#: Every side the network works on is a multiple of this and no smaller than MIN_SIDE (the coarsest map needs two
#: pixels for its reflection padding).
MULTIPLE = 2**LEVELS
MIN_SIDE = 2 * MULTIPLE


class EncoderLevel(nn.Module):
    """One step down: halve the size, fuse with all finer features, refine (not at the coarsest scale)."""

    def __init__(self, widths: list[int], fusion: type[nn.Module], refine: bool) -> None:
        super().__init__()
        self.down = reflect_conv(widths[1], widths[0], 3, stride=2)
        self.fusion = fusion(widths, towards_finer=True)
        self.refine = residual_group(widths[0]) if refine else None

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        """Return the feature of this scale and append to ``memory`` what the next ones fuse with."""
        feature, remembered = self.fusion(self.down(x), memory)
        memory.append(remembered)
        return feature if self.refine is None else self.refine(feature) + feature


class DecoderLevel(nn.Module):
    """One step up: strengthen, operate, subtract (SOS boosting), then fuse with all coarser features."""

    def __init__(self, widths: list[int], fusion: type[nn.Module]) -> None:
        super().__init__()
        self.up = Upsample(widths[1], widths[0])
        self.refine = residual_group(widths[0])
        self.fusion = fusion(widths, towards_finer=False)

    def forward(self, x: Tensor, skip: Tensor, memory: list[Tensor]) -> Tensor:
        """Return the feature of the scale of ``skip`` and append to ``memory`` what the next ones fuse with."""
        upsampled = self.up(x, skip.shape[-2:])
        strengthened = upsampled + skip
        boosted = self.refine(strengthened) + strengthened - upsampled
        feature, remembered = self.fusion(boosted, memory)
        memory.append(remembered)
        return feature


@register(ARCH_REGISTRY)
class MSBDN(nn.Module):
    """Multi-scale boosted dehazing network: a U-Net of five scales with boosting steps and dense feature fusion.

    Images of any height and width are taken: they are mirrored at the bottom and right to a multiple of 16, at least
    32, and the output is cropped back.

    An output depends on pixels up to 1,160 away, too far to give every tile as context: restoring by tiles is an
    approximation near the seams.

    Args:
        variant: ``"dff"`` is MSBDN-DFF-v1-1 (31,353,061 parameters), the network that the D2SM paper names; ``"rdff"``
            is MSBDN-RDFF (28,712,861 parameters), which its authors' release contains under the name MSBDN.
        num_feat: channels at the finest scale, even; every coarser scale has twice as many. Both published networks
            have 16.
        num_block: residual blocks at the coarsest scale. Both published networks have 18.

    Raises:
        OptionError: for an unknown variant, or numbers that give no network.
    """

    inputs = ("lq",)
    size_multiple = MULTIPLE

    def __init__(self, variant: Literal["dff", "rdff"] = "dff", num_feat: Count = 16, num_block: Count = 18) -> None:
        super().__init__()
        if variant not in FUSIONS:
            raise OptionError(f"MSBDN variant: no variant is called '{variant}'{suggest(variant, FUSIONS)}")
        if num_feat < 2 or num_feat % 2 or num_block < 1:
            raise OptionError(
                f"MSBDN: num_feat must be even and at least 2, num_block at least 1; got num_feat {num_feat}, "
                f"num_block {num_block}"
            )
        self.variant = variant
        fusion = FUSIONS[variant]
        widths = [num_feat * 2**level for level in range(LEVELS + 1)]
        self.head = reflect_conv(3, num_feat, 11)
        self.head_refine = residual_group(num_feat)
        self.encoder = nn.ModuleList(
            EncoderLevel(widths[level::-1], fusion, refine=level < LEVELS) for level in range(1, LEVELS + 1)
        )
        self.dehaze = residual_group(widths[-1], num_block)
        self.decoder = nn.ModuleList(DecoderLevel(widths[level:], fusion) for level in reversed(range(LEVELS)))
        self.tail = reflect_conv(num_feat, 3, 3)

    def forward(self, lq: Tensor) -> Tensor:
        """Remove haze.

        Args:
            lq: hazy images (B,3,H,W), RGB, [0,1].

        Returns:
            Restored images (B,3,H,W), not clamped.

        Raises:
            ShapeError: for images that do not have three channels.
        """
        check_images(lq, 3, "MSBDN")
        height, width = lq.shape[-2:]
        multiple = MULTIPLE if min(height, width) > MULTIPLE else MIN_SIDE
        return self._restore(pad_to_multiple(lq, multiple, "symmetric"))[..., :height, :width]

    def _restore(self, padded: Tensor) -> Tensor:
        feature = self.head(padded)
        memory = [self._remembered(feature)]
        feature = self.head_refine(feature) + feature
        skips = []
        for level in self.encoder:
            skips.append(feature)
            feature = level(feature, memory)
        # The boosting step at the coarsest scale: there is nothing to upsample, so the feature strengthens itself.
        strengthened = 2 * feature
        feature = self.dehaze(strengthened) + strengthened - feature
        memory = [self._remembered(feature)]
        for level in self.decoder:
            feature = level(feature, skips.pop(), memory)
        return self.tail(feature)

    def _remembered(self, feature: Tensor) -> Tensor:
        """Part that later scales fuse with: all of a feature, or its first half in the relaxed variant."""
        return feature.chunk(2, dim=1)[0] if self.variant == "rdff" else feature

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensor names of the published networks (both variants) to ours; other names stay as they are.

        The authors' files are pickled whole modules, which a safe reader refuses. Convert such a file once, in a
        checkout of their repository and only if you trust it::

            network = torch.load("model.pkl", map_location="cpu", weights_only=False)
            torch.save(network.state_dict(), "msbdn.pth")
        """
        return published_to_own(state)
