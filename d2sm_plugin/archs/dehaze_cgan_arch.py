"""cGAN dehazing, a U-Net with additive skips and its discriminator (the row DcGAN of the paper's Table 3).

Source: Li et al., "Single Image Dehazing via Conditional Generative Adversarial Network", CVPR 2018; the layers are
those of ``models3.lua``, which the authors' code names as the network of the publication.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from d2sm_plugin.archs.blocks import LEAKY_SLOPE, check_images, pad_to_multiple
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.registry import ARCH_REGISTRY, register

#: Channels behind every halving, in multiples of those of the first.
_WIDTHS = (1, 2, 4, 8, 16, 16, 16, 16)
MULTIPLE = 2 ** len(_WIDTHS)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


@register(ARCH_REGISTRY)
class DehazeCGAN(nn.Module):
    """Generator of cGAN dehazing: eight halvings, eight doublings, the sum of both at every scale, ``tanh``.

    The published network has 123,147,715 parameters. Images of any height and width are taken: they are mirrored at the
    bottom and right to multiples of 256 (the authors resize to 512), and the output is cropped back. The published
    weights are Torch7 files, which are not read.

    Args:
        num_feat: channels at the finest scale; the published network has 64.

    Raises:
        OptionError: for fewer than one channel.
    """

    inputs = ("lq",)
    size_multiple = MULTIPLE

    def __init__(self, num_feat: int = 64) -> None:
        super().__init__()
        if num_feat < 1:
            raise OptionError(f"DehazeCGAN: num_feat must be at least 1; got {num_feat}")
        widths = [num_feat, *(num_feat * width for width in _WIDTHS)]
        self.head = nn.Sequential(
            nn.Conv2d(3, num_feat, 5, padding=2),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            nn.BatchNorm2d(num_feat),
            nn.LeakyReLU(LEAKY_SLOPE),
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.BatchNorm2d(after))
            for before, after in pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after))
            for before, after in pairwise(reversed(widths))
        )
        self.tail = nn.Conv2d(num_feat, 3, 3, padding=1)
        self.apply(_initialise)

    def forward(self, lq: Tensor) -> Tensor:
        """Remove haze.

        Args:
            lq: hazy images (B, 3, H, W), RGB, [0, 1].

        Returns:
            Restored images (B, 3, H, W) in [0, 1].

        Raises:
            ShapeError: for images that do not have three channels; in training, for a single image of at most 256x256,
                which leaves batch normalisation one value at the coarsest scale.
        """
        check_images(lq, 3, "DehazeCGAN")
        height, width = lq.shape[-2:]
        images = pad_to_multiple(lq, MULTIPLE, "symmetric")
        if self.training and images[:, 0].numel() == MULTIPLE**2:
            raise ShapeError(
                f"DehazeCGAN: one image of {height}x{width} leaves batch normalisation one value at the coarsest "
                f"scale; train with batch_size_per_gpu of at least 2, or crops above {MULTIPLE}"
            )
        feature = self.head(2 * images - 1)
        skips: list[Tensor] = []
        for down in self.encoder:
            # The published activations work in place, so what is added later has passed them.
            feature = F.leaky_relu(down(feature), LEAKY_SLOPE)
            skips.append(feature)
        skips.pop()
        for up in self.decoder:
            feature = up(feature.relu())
            if skips:
                feature = feature + skips.pop()
        restored = self.tail(feature.relu()).tanh()
        return (restored[..., :height, :width] + 1) / 2


@register(ARCH_REGISTRY)
class DehazeCGANDiscriminator(nn.Module):
    """Discriminator of cGAN dehazing: five 3x3 convolutions at full size judge every pixel.

    It sees the hazy image beside the one that is judged: ``train.gan_opt.condition: [lq]`` of
    :class:`~d2sm_plugin.models.gan_model.GANModel`. The published one has 879,121 parameters; its sigmoid is left to
    the objective (``gan_type: vanilla``).

    Args:
        num_in_ch: channels of the input; 6 for two RGB images.
        num_feat: channels of the first layer, doubled three times; the published one has 48.

    Raises:
        OptionError: for a number below 1.
    """

    def __init__(self, num_in_ch: int = 6, num_feat: int = 48) -> None:
        super().__init__()
        if min(num_in_ch, num_feat) < 1:
            raise OptionError(
                f"DehazeCGANDiscriminator: num_in_ch and num_feat must be at least 1; got {num_in_ch} and {num_feat}"
            )
        self.num_in_ch = num_in_ch
        layers: list[nn.Module] = []
        for before, after in pairwise([num_in_ch, *(num_feat * 2**level for level in range(4))]):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU(LEAKY_SLOPE)]
        self.body = nn.Sequential(*layers, nn.Conv2d(8 * num_feat, 1, 3, padding=1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return one logit for every pixel (B, 1, H, W) of images (B, num_in_ch, H, W) in [0, 1].

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(images, self.num_in_ch, "DehazeCGANDiscriminator")
        return self.body(2 * images - 1)
