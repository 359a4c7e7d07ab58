"""RDN, the residual dense network for super-resolution by 2, 4 or 8."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import ResidualDenseBlock, check_images
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

_STAGES = {2: 1, 4: 2, 8: 3}


@register(ARCH_REGISTRY)
class RDN(nn.Module):
    """RDN (Zhang et al.: "Residual dense network for image super-resolution", CVPR 2018).

    The defaults are the network of the paper's Table 2: 22,418,819 parameters, by 8, for which a third pixel-shuffle
    stage is added to the published network by 4 (22,271,107). Files of the port yjn870/RDN-pytorch load; those by 4
    fill all but the third stage when ``path.strict_load_g`` is false.

    Args:
        scale: 2, 4 or 8.
        num_in_ch: channels of the small images and of the restored ones.
        num_feat: channels of the features.
        growth: channels that each dense layer appends.
        num_block: residual dense blocks.
        num_layer: dense layers of a block.

    Raises:
        OptionError: for another ``scale``.
    """

    size_multiple = 1

    def __init__(
        self,
        scale: Count = 8,
        num_in_ch: Count = 3,
        num_feat: Count = 64,
        growth: Count = 64,
        num_block: Count = 16,
        num_layer: Count = 8,
    ) -> None:
        super().__init__()
        if scale not in _STAGES:
            raise OptionError(f"RDN.scale: expected one of {', '.join(map(str, _STAGES))}, got {scale}")
        self.num_in_ch = num_in_ch
        #: Each 3x3 convolution sees one pixel further, those behind a shuffle a fraction of one.
        self.receptive_radius = num_block * num_layer + 5
        self.sfe1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.sfe2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.rdbs = nn.ModuleList(ResidualDenseBlock(num_feat, growth, num_layer) for _ in range(num_block))
        self.gff = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1), nn.Conv2d(num_feat, num_feat, 3, padding=1)
        )
        stages = [(nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1), nn.PixelShuffle(2)) for _ in range(_STAGES[scale])]
        self.upscale = nn.Sequential(*(layer for stage in stages for layer in stage))
        self.output = nn.Conv2d(num_feat, num_in_ch, 3, padding=1)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore images.

        Args:
            lq: small images (B, C, h, w), [0, 1]; any size.

        Returns:
            (B, C, s*h, s*w), not clamped.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, self.num_in_ch, "RDN")
        shallow = self.sfe1(lq)
        features, outputs = self.sfe2(shallow), []
        for block in self.rdbs:
            features = block(features)
            outputs.append(features)
        return self.output(self.upscale(self.gff(torch.cat(outputs, dim=1)) + shallow))

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensor names of the port to ours; others stay as they are."""
        return {_name_here(name): tensor for name, tensor in state.items()}


def _name_here(name: str) -> str:
    return re.sub(r"^(rdbs\.\d+\.layers\.\d+)\.conv\.", r"\1.", name).replace(".lff.", ".merge.")
