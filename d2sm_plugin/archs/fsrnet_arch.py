"""FSRNet, face super-resolution by 8 with an estimate of facial priors, and FSRGAN's discriminator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import LEAKY_SLOPE, check_images
from d2sm_plugin.archs.face_images import check_multiple
from d2sm_plugin.archs.fsrnet_blocks import ImagePart, PriorNetwork, norm_relu, plain_conv
from d2sm_plugin.archs.fsrnet_names import rename_fsrnet
from d2sm_plugin.argument_types import Count, NonNegative
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

_SCALE = 8
_SPREAD = 0.02


@register(ARCH_REGISTRY)
class FSRNet(nn.Module):
    """FSRNet (Chen et al.: "FSRNet: End-to-end learning face super-resolution with facial priors", CVPR 2018), x8.

    The face, enlarged by bicubic interpolation as PIL does it, is restored coarsely; an encoder and a prior network
    look at the coarse face, and a decoder makes the fine one from both: 3,262,272 parameters without heads. Files of
    both PyTorch ports load; in one of them (cs-giung) the blocks of a part share their weights.

    Initial values as in the port cydiachen/FSRNET_pytorch: normal with 0.02 around 0 (convolutions) and 1 (norms).

    Args:
        num_feat: channels of the image parts.
        num_prior_feat: channels of the prior network, an even number.
        num_block: residual blocks of coarse network, encoder and decoder.
        num_heatmap: landmarks whose heatmaps a 1x1 head reads from the prior features, for their supervision; 0: none.
        num_parsing: parsing maps, likewise; CelebA has no labels for them.

    Raises:
        OptionError: when ``num_block`` is not three numbers.
    """

    size_multiple = 2

    def __init__(
        self,
        num_feat: Count = 64,
        num_prior_feat: Count = 128,
        num_block: Sequence[Count] = (3, 12, 3),
        num_heatmap: NonNegative = 0,
        num_parsing: NonNegative = 0,
    ) -> None:
        super().__init__()
        if len(num_block) != 3:
            raise OptionError(f"FSRNet.num_block: expected three numbers, as in [3, 12, 3], got {num_block}")
        coarse, encoder, decoder = num_block
        self.coarse = ImagePart(norm_relu(plain_conv(3, num_feat)), num_feat, coarse, 3)
        down = nn.Conv2d(3, num_feat, 3, 2, 1, bias=False)
        self.encoder = ImagePart(norm_relu(down), num_feat, encoder, num_feat)
        self.prior = PriorNetwork(num_feat, num_prior_feat)
        join = nn.Conv2d(num_feat + num_prior_feat, num_feat, 3, padding=1, bias=False)
        up = nn.ConvTranspose2d(num_feat, num_feat, 3, 2, 1, output_padding=1, bias=False)
        self.decoder = ImagePart([*norm_relu(join), *norm_relu(up)], num_feat, decoder, 3)
        self.heatmap_head = nn.Conv2d(num_prior_feat, num_heatmap, 1) if num_heatmap else None
        self.parsing_head = nn.Conv2d(num_prior_feat, num_parsing, 1) if num_parsing else None
        self.apply(_initialise)

    def forward(self, lq: Tensor) -> dict[str, Tensor]:
        """Restore faces.

        Args:
            lq: small faces (B, 3, h, w), [0, 1], RGB; h and w even, 16 in the publication.

        Returns:
            ``"restored"`` and ``"coarse"`` (B, 3, 8h, 8w), in [0, 1]; with their heads also ``"heatmaps"`` (B, P, 4h,
            4w) and ``"parsing"`` (B, N, 4h, 4w), not bounded.

        Raises:
            ShapeError: for another number of channels, or an odd size.
        """
        check_images(lq, 3, "FSRNet")
        check_multiple(lq, self.size_multiple, "FSRNet")
        coarse = self.coarse(2 * _enlarge(lq) - 1)
        prior = self.prior(coarse)
        fine = self.decoder(torch.cat((self.encoder(coarse), prior), dim=1))
        outputs = {"restored": (fine + 1) / 2, "coarse": (coarse + 1) / 2}
        for name, head in (("heatmaps", self.heatmap_head), ("parsing", self.parsing_head)):
            if head is not None:
                outputs[name] = head(prior)
        return outputs

    def convert_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a port's checkpoint under this network's names; heads it has not are left out.

        Other names pass unchanged.
        """
        heads = (("heatmap_head.", self.heatmap_head), ("parsing_head.", self.parsing_head))
        unwanted = tuple(prefix for prefix, head in heads if head is None)
        return {name: value for name, value in rename_fsrnet(state).items() if not name.startswith(unwanted)}


@register(ARCH_REGISTRY)
class FSRGANDiscriminator(nn.Module):
    """FSRGAN's discriminator: four stages that halve the face, and a map of logits (4,693,697 parameters).

    The publication does not describe it; this is the one of the port cs-giung/FSRNet-pytorch, whose files load
    (``param_key_d: state_dict_disc``).

    Args:
        num_feat: channels of each stage.
    """

    def __init__(self, num_feat: Sequence[Count] = (64, 128, 256, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((3, *num_feat), num_feat, strict=False)):
            layers.append(nn.Conv2d(before, after, 3, padding=1))
            layers += [nn.BatchNorm2d(after)] if number else []
            layers += [nn.LeakyReLU(LEAKY_SLOPE, True), nn.Conv2d(after, after, 3, 2, 1), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(LEAKY_SLOPE, True))
        self.layers = nn.Sequential(*layers, nn.Conv2d(num_feat[-1], 1, 3, padding=1))

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits (B, 1, H/16, W/16) of faces (B, 3, H, W) in [0, 1], high for real ones.

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(faces, 3, "FSRGANDiscriminator")
        return self.layers(2 * faces - 1)

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published checkpoint (``model.0.weight`` ...) under this network's names."""
        return {name.replace("model.", "layers.", 1): value for name, value in state.items()}


def _enlarge(images: Tensor) -> Tensor:
    """Enlarge as PIL does, first the width, then the height, each cut to [0, 1]; PIL rounds besides."""
    height, width = images.shape[-2:]
    for size in ((height, _SCALE * width), (_SCALE * height, _SCALE * width)):
        # antialias makes torch take PIL's kernel
        images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    return images


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        centre = float(isinstance(module, nn.BatchNorm2d))
        nn.init.normal_(module.weight, centre, _SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
