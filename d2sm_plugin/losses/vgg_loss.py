"""Squared distance between images in several layers of VGG."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from basicsr.archs.vgg_arch import NAMES, VGGFeatureExtractor
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.registry import register

_IMAGES = ("imagenet", "unit", "signed")


@register(LOSS_REGISTRY)
class VGGLoss(FrozenNetworkObjective):
    """Weighted sum of mean squared distances of VGG's feature maps (Johnson et al., ECCV 2016), in one pass.

    BasicSR's ``PerceptualLoss`` on its extractor, with the squared distance that its ``criterion: l2`` asks a missing
    class of torch for, and with images as the publications feed them. The weights are torchvision's for ImageNet.

    Args:
        layers: name of the layer (``relu2_2``) -> weight.
        vgg_type: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        images: how the network sees images of [0, 1]: ``"imagenet"`` normalised as it was trained, ``"unit"`` as they
            are, ``"signed"`` in [-1, 1].
        loss_weight: factor on the sum.

    Raises:
        OptionError: for an unknown network, layer or kind of images.
    """

    takes = ("restored", "gt")

    def __init__(
        self, layers: Mapping[str, float], vgg_type: str = "vgg16", images: str = "imagenet", loss_weight: float = 1.0
    ) -> None:
        if vgg_type not in NAMES:
            raise OptionError(f"VGGLoss.vgg_type: '{vgg_type}' is unknown{suggest(vgg_type, NAMES)}")
        for layer in layers:
            if layer not in NAMES[vgg_type]:
                raise OptionError(f"VGGLoss.layers: {vgg_type} has no '{layer}'{suggest(layer, NAMES[vgg_type])}")
        if images not in _IMAGES:
            raise OptionError(f"VGGLoss.images: '{images}' is unknown{suggest(images, _IMAGES)}")
        super().__init__(VGGFeatureExtractor(list(layers), vgg_type, use_input_norm=images != "unit"))
        if images == "signed":
            self.network.mean.fill_(0.5)
            self.network.std.fill_(0.5)
        self.layers, self.loss_weight = dict(layers), loss_weight

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted distance of images (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only."""
        with torch.no_grad():
            wanted = self.network(clear)
        features = self.network(restored)
        distances = [weight * F.mse_loss(features[name], wanted[name]) for name, weight in self.layers.items()]
        return self.loss_weight * torch.stack(distances).sum()
