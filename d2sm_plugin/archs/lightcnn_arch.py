"""LightCNN-9 for face recognition, and DICGAN's discriminator on the same trunk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.face_images import FACE_MEAN
from d2sm_plugin.argument_types import Count, NonNegative
from d2sm_plugin.features.lightcnn_blocks import DESCRIPTOR, TRUNK_VALUES, check_faces, make_trunk, mfm_linear
from d2sm_plugin.registry import ARCH_REGISTRY, register


@register(ARCH_REGISTRY)
class LightCNN9(nn.Module):
    """LightCNN-9 (Wu et al.: "A light CNN for deep face representation with noisy labels", TIFS 2018).

    Args:
        num_classes: identities of the classifier (79,077 in the published checkpoint: 25,803,653 parameters); 0 leaves
            the classifier out (5,480,864).
        num_in_ch: 1 for the published, grey network.
    """

    inputs = ("gt",)

    def __init__(self, num_classes: NonNegative = 79_077, num_in_ch: Count = 1) -> None:
        super().__init__()
        self.num_in_ch = num_in_ch
        self.features = make_trunk(num_in_ch)
        self.fc1 = mfm_linear(TRUNK_VALUES, DESCRIPTOR)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(DESCRIPTOR, num_classes) if num_classes else None

    def descriptor(self, faces: Tensor) -> Tensor:
        """Return the penultimate layer (B, 256), without dropout, of faces (B, C, 128, 128) in [0, 1].

        Raises:
            ShapeError: for another size or number of channels.
        """
        check_faces(faces, self.num_in_ch, "LightCNN9")
        return self.fc1(self.features(faces).flatten(1))

    def forward(self, faces: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of faces (B, C, 128, 128) in [0, 1]; without classifier the descriptor.

        Raises:
            ShapeError: for another size or number of channels.
        """
        descriptor = self.dropout(self.descriptor(faces))
        return descriptor if self.fc2 is None else self.fc2(descriptor)

    def convert_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a published checkpoint's tensors; its classifier is left out where this network has none.

        The names are the published ones.
        """
        unwanted = ("fc2.",) if self.fc2 is None else ()
        return {name: value for name, value in state.items() if not name.startswith(unwanted)}


@register(ARCH_REGISTRY)
class DICDiscriminator(nn.Module):
    """DICGAN's discriminator (Ma et al., CVPR 2020): LightCNN-9's trunk on RGB and one logit (5,485,921 parameters).

    Faces come in [0, 1]; the network shifts them by DICNet's mean colour, as the published one is fed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.features = make_trunk(3)
        self.classifier = nn.Sequential(
            mfm_linear(TRUNK_VALUES, DESCRIPTOR), nn.LeakyReLU(0.2, inplace=True), nn.Linear(DESCRIPTOR, 1)
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Return one logit (B, 1) for each face (B, 3, 128, 128), high for real ones.

        Raises:
            ShapeError: for another size or number of channels.
        """
        check_faces(faces, 3, "DICDiscriminator")
        return self.classifier(self.features(faces - self.mean).flatten(1))
