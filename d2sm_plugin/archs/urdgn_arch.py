"""URDGN, a generator of faces by 8 and its discriminator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images
from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError
from d2sm_plugin.features.lightcnn_blocks import FACE_SIZE, check_faces
from d2sm_plugin.registry import ARCH_REGISTRY, register


@register(ARCH_REGISTRY)
class URDGN(nn.Module):
    """URDGN (Yu and Porikli: "Ultra-resolving face images by discriminative generative networks", ECCV 2016), x8.

    Convolutions with batch normalisation and ReLU, nearest neighbours by 2 between them: 1,054,243 parameters. The
    publication is in Torch7; the layers are numbered as there, so a conversion of its file by index loads.

    Args:
        num_feat: output channels of the first four convolutions.

    Raises:
        OptionError: for another number of them.
    """

    size_multiple = 1
    receptive_radius = 3  # 1 + 1/2 + 2/4 + 2/8 + 2/8 small pixels

    def __init__(self, num_feat: Sequence[Count] = (16, 64, 128, 256)) -> None:
        super().__init__()
        _check_four(num_feat, "URDGN")
        layers: list[nn.Module] = []
        channels = 3
        for position, (width, kernel) in enumerate(zip(num_feat, (3, 3, 5, 5), strict=True)):
            if position:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU(True)]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 3, 5, padding=2))

    def forward(self, lq: Tensor) -> Tensor:
        """Restore faces.

        Args:
            lq: small faces (B, 3, h, w), [0, 1], RGB; any size, 16x16 in the publication.

        Returns:
            (B, 3, 8h, 8w), not clamped; inside, images are in [-1, 1].

        Raises:
            ShapeError: for another number of channels.
        """
        check_images(lq, 3, "URDGN")
        return (self.layers(2 * lq - 1) + 1) / 2

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a conversion from Torch7 (``0.weight`` ...) under this network's names.

        Other names pass unchanged.
        """
        return {f"layers.{name}" if name[:1].isdecimal() else name: value for name, value in state.items()}


@register(ARCH_REGISTRY)
class URDGNDiscriminator(nn.Module):
    """URDGN's discriminator for faces of 128x128 (6,859,425 parameters).

    Dropout scales what it keeps in training; Torch7's spatial dropout scales in evaluation instead.

    Args:
        num_feat: output channels of the four convolutions.
        num_hidden: width of the linear layer.

    Raises:
        OptionError: for another number of convolutions.
    """

    def __init__(self, num_feat: Sequence[Count] = (32, 64, 128, 96), num_hidden: Count = 1024) -> None:
        super().__init__()
        _check_four(num_feat, "URDGNDiscriminator")
        layers: list[nn.Module] = []
        for before, after in zip((3, *num_feat), num_feat, strict=False):
            layers += [nn.Conv2d(before, after, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(True), nn.Dropout2d(0.2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(num_feat[-1] * (FACE_SIZE // 16) ** 2, num_hidden),
            nn.ReLU(True),
            nn.Dropout(0.5),
            nn.Linear(num_hidden, 1),
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Return one logit (B, 1) for each face (B, 3, 128, 128) in [0, 1], high for real ones.

        Raises:
            ShapeError: for another size or number of channels.
        """
        check_faces(faces, 3, "URDGNDiscriminator")
        return self.classifier(self.features(2 * faces - 1).flatten(1))


def _check_four(num_feat: Sequence[int], network: str) -> None:
    if len(num_feat) != 4:
        raise OptionError(f"{network}.num_feat: expected the channels of four convolutions, got {num_feat}")
