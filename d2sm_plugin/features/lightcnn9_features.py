"""LightCNN-9 trained for face recognition: what makes a face that person's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError, suggest
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.lightcnn_blocks import DESCRIPTOR, FACE_SIZE, TRUNK_VALUES, make_trunk, mfm_linear
from d2sm_plugin.registry import FEATURE_REGISTRY, register
from d2sm_plugin.weights import read_weights

LAYERS = ("fc1", "pool4")
COLORS = ("gray", "rgb")
#: Red, green and blue in the grey value that PIL and OpenCV compute.
_LUMA = (0.299, 0.587, 0.114)
#: What DICGAN subtracts from its images.
_RGB_MEAN = (0.509, 0.424, 0.378)


@register(FEATURE_REGISTRY)
class LightCNN9Features(FrozenExtractor):
    """Features of LightCNN-9 (Wu et al., TIFS 2018), frozen.

    The paper takes the penultimate layer (``fc1``, 256 values) for faces, of a network trained on CelebA that was not
    published. The published checkpoint is for grey faces and trained on MS-Celeb-1M; DICNet's authors publish the
    convolutions alone, for RGB (``LightCNN_feature.pth``: ``layer="pool4", color="rgb"``). Say which one you used.

    Args:
        layer: ``"fc1"``, the 256-d descriptor, or ``"pool4"``, the last feature map (128x8x8 = 8192 values).
        color: ``"gray"``: the faces' grey value in [0, 1]; ``"rgb"``: three channels, shifted by DICNet's mean colour.
        weights: a path: published checkpoint or state dict (a classifier in it is left out). None gives random weights,
            which no semantic statement can rest on; only for tests.

    Raises:
        OptionError: for an unknown layer or colour.
        CheckpointError: when the weights cannot be read, lack a tensor, or are for the other colour.
    """

    luma: Tensor

    def __init__(
        self,
        layer: Literal["fc1", "pool4"] = "fc1",
        color: Literal["gray", "rgb"] = "gray",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(_RGB_MEAN if color == "rgb" else (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        if layer not in LAYERS:
            raise OptionError(f"LightCNN9Features.layer: no layer '{layer}'{suggest(layer, LAYERS)}")
        if color not in COLORS:
            raise OptionError(f"LightCNN9Features.color: '{color}' is unknown{suggest(color, COLORS)}")
        self.color = color
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)
        self.features = make_trunk(1 if color == "gray" else 3)
        self.fc1 = mfm_linear(TRUNK_VALUES, DESCRIPTOR) if layer == "fc1" else nn.Identity()
        if weights is not None:
            self._load(weights)
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 256) or (B, 8192) of square faces (B, 3, H, H), RGB in [0, 1].

        Faces of another size than 128x128 are scaled to it (bilinear, antialiased).

        Raises:
            ShapeError: for images that are not square or not RGB.
        """
        return self.fc1(self.feature_map(images).flatten(1))

    def feature_map(self, images: Tensor) -> Tensor:
        """Last feature map (B, 128, 8, 8) of square faces (B, 3, H, H), RGB in [0, 1]."""
        faces = self.normalise(images)
        height, width = faces.shape[-2:]
        if height != width:
            raise ShapeError(f"LightCNN9Features takes square faces; got {height}x{width} (height x width), crop them")
        if self.color == "gray":
            faces = (faces * self.luma).sum(dim=1, keepdim=True)
        if height != FACE_SIZE:
            faces = F.interpolate(faces, (FACE_SIZE, FACE_SIZE), mode="bilinear", align_corners=False, antialias=True)
        return self.features(faces)

    def _load(self, weights: str | Path) -> None:
        state = read_weights(weights)
        expected = self.state_dict()
        for name, tensor in expected.items():
            if name not in state:
                raise CheckpointError(
                    f"{weights}: holds no tensor {name}; give a checkpoint of LightCNN-9"
                    + (", or layer 'pool4', which needs no fully connected layer" if name.startswith("fc1") else "")
                )
            if state[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{weights}: {name} has the shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)} with "
                    f"color '{self.color}'; give the other color, or weights of LightCNN-9"
                )
        self.load_state_dict({name: state[name] for name in expected})
