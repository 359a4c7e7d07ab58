"""FFDNet: a stack of convolutions on the image folded to half resolution, told the noise level."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images, make_activation, pad_to_multiple
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.registry import ARCH_REGISTRY, register

_FOLD = 2  # the image is folded to half its resolution, 4 sub-images per channel

_INITS = ("default", "orthogonal")
_GAIN = 0.2  # of orthogonal weights


@register(ARCH_REGISTRY)
class FFDNet(nn.Module):
    """FFDNet (Zhang, Zuo, Zhang: "FFDNet: Toward a fast and flexible solution for CNN-based image denoising", 2018).

    The image is folded into 4 sub-images per channel, a constant plane with the noise level is appended, 3x3
    convolutions map this to the 4 clean sub-images, and they are unfolded. The network predicts the clean image
    itself, not the noise. The defaults are the published colour network (852,108 parameters); the published grey one
    is ``num_in_ch=1, num_out_ch=1, num_feat=64, num_layers=15`` (485,316 parameters).

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the restored image.
        num_feat: channels of the hidden layers.
        num_layers: number of convolutions, at least 2.
        init: of the weights before training: ``"default"`` is PyTorch's; ``"orthogonal"`` draws orthogonal matrices
            times 0.2 and sets biases to 0, as KAIR trains FFDNet.

    Raises:
        OptionError: for fewer than 2 layers, or an unknown ``init``.
    """

    inputs = ("lq", "sigma")
    size_multiple = _FOLD

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 96,
        num_layers: Count = 12,
        init: Literal["default", "orthogonal"] = "default",
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise OptionError(f"FFDNet: num_layers is {num_layers}, but a first and a last layer are needed; give >= 2")
        if init not in _INITS:
            raise OptionError(f"FFDNet.init: '{init}' is unknown{suggest(str(init), _INITS)}")
        self.num_in_ch = num_in_ch
        self.receptive_radius = _FOLD * num_layers
        folded_in, folded_out = num_in_ch * _FOLD**2 + 1, num_out_ch * _FOLD**2
        channels = [folded_in, *[num_feat] * (num_layers - 1), folded_out]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), make_activation("relu")]
        self.model = nn.Sequential(*layers[:-1])  # no activation after the last; names as in the published weights
        if init == "orthogonal":
            self.apply(_draw_orthogonal)

    def forward(self, lq: Tensor, sigma: Tensor) -> Tensor:
        """Restore noisy images.

        Args:
            lq: noisy images (B, C, H, W), [0, 1], RGB where C = 3; any H and W.
            sigma: noise level of each image (B, 1, 1, 1) in the images' unit, which is noise level / 255.

        Returns:
            Restored images, same size as ``lq``, not clamped.

        Raises:
            ShapeError: for another number of channels, or a ``sigma`` of another shape.
        """
        check_images(lq, self.num_in_ch, "FFDNet")
        if sigma.shape != (lq.shape[0], 1, 1, 1):
            raise ShapeError(
                f"FFDNet: expected sigma of shape ({lq.shape[0]}, 1, 1, 1), one noise level / 255 per image, got "
                f"{tuple(sigma.shape)}"
            )
        height, width = lq.shape[-2:]
        folded = F.pixel_unshuffle(pad_to_multiple(lq, _FOLD), _FOLD)
        plane = sigma.to(folded.dtype).expand(-1, 1, *folded.shape[-2:])
        restored = F.pixel_shuffle(self.model(torch.cat((folded, plane), dim=1)), _FOLD)
        return restored[..., :height, :width]

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint under this network's names.

        Known are the names of KAIR (``model.0.weight``, the same as ours) and those of the D2SM authors' release
        (``m_head.0.weight``, ``m_body.0.0.weight``, ``m_tail.weight``), whose checkpoints may also carry the feature
        extractor and the queues of the training; these are left out. Other names pass unchanged.
        """
        if "m_head.0.weight" not in state:
            return dict(state)
        names = [re.fullmatch(r"m_(head|body|tail)((?:\.\d+)*)\.(weight|bias)", name) for name in state]
        blocks = [int(name[2].split(".")[1]) for name in names if name and name[1] == "body"]
        last = len(set(blocks)) + 1
        index = {"head": lambda _: 0, "body": lambda path: int(path.split(".")[1]) + 1, "tail": lambda _: last}
        return {f"model.{2 * index[name[1]](name[2])}.{name[3]}": state[name[0]] for name in names if name}


def _draw_orthogonal(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.orthogonal_(layer.weight, gain=_GAIN)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
