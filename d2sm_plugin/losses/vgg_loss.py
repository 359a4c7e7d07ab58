"""Squared distance between images in several layers of VGG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.errors import CheckpointError, OptionError, suggest
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.vgg19_features import IMAGENET_MEAN, IMAGENET_STD
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.weights import read_weights

_NETWORKS = ("vgg11", "vgg13", "vgg16", "vgg19")
#: How the network sees images of [0, 1]: mean and deviation that they are normalised with.
_IMAGES = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "unit": ((0.0,) * 3, (1.0,) * 3), "signed": ((0.5,) * 3,) * 2}


@register(LOSS_REGISTRY)
class VGGLoss(FrozenNetworkObjective):
    """Weighted sum of mean squared distances of VGG's feature maps (Johnson et al., ECCV 2016), in one pass.

    BasicSR's ``PerceptualLoss`` has no squared distance and does not know images in [-1, 1].

    Args:
        layers: name of the layer (``conv2_2``, ``relu2_2``, ``pool2``) -> weight.
        vgg_type: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        images: how the network sees images of [0, 1]: ``"imagenet"`` normalised as it was trained, ``"unit"`` as they
            are, ``"signed"`` in [-1, 1].
        weights: ``"imagenet"`` (downloaded by torchvision), or a path: a state dict or checkpoint with the names of
            torchvision. None gives random weights, only for tests.
        loss_weight: factor on the sum.

    Raises:
        OptionError: for an unknown network, layer or kind of images.
        CheckpointError: when the weights cannot be had or lack a layer that is needed.
    """

    takes = ("restored", "gt")

    def __init__(
        self,
        layers: Mapping[str, Weight],
        vgg_type: Literal["vgg11", "vgg13", "vgg16", "vgg19"] = "vgg16",
        images: Literal["imagenet", "unit", "signed"] = "imagenet",
        weights: str | Path | None = "imagenet",
        loss_weight: Weight = 1.0,
    ) -> None:
        if vgg_type not in _NETWORKS:
            raise OptionError(f"VGGLoss.vgg_type: '{vgg_type}' is unknown{suggest(vgg_type, _NETWORKS)}")
        if images not in _IMAGES:
            raise OptionError(f"VGGLoss.images: '{images}' is unknown{suggest(images, _IMAGES)}")
        super().__init__(_Layers(vgg_type, list(layers), images, weights))
        self.layers, self.loss_weight = dict(layers), loss_weight

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted distance of images (B, 3, H, W) in [0, 1]; the gradient reaches ``restored`` only."""
        with torch.no_grad():
            wanted = self.network(clear)
        features = self.network(restored)
        distances = [weight * F.mse_loss(features[name], wanted[name]) for name, weight in self.layers.items()]
        return self.loss_weight * torch.stack(distances).sum()


class _Layers(FrozenExtractor):
    """The convolutions of torchvision's VGG up to the last of the named layers; gives the maps of all of them."""

    def __init__(self, vgg_type: str, layers: list[str], images: str, weights: str | Path | None) -> None:
        from torchvision.models import get_model

        super().__init__(*_IMAGES[images])
        with torch.device("meta"):  # the layers that are not needed never take any memory
            features = get_model(vgg_type, weights=None, init_weights=False).features
        names = _names(features)
        for layer in layers:
            if layer not in names:
                raise OptionError(f"VGGLoss.layers: {vgg_type} has no '{layer}'{suggest(layer, names)}")
        self.names = {names.index(layer): layer for layer in layers}
        self.features = features[: max(self.names) + 1].to_empty(device="cpu")
        if weights is None:
            for module in self.features:
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()
        else:
            self._load(vgg_type, weights)
        self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, by_layer = self.normalise(images), {}
        for place, module in enumerate(self.features):
            maps = module(maps)
            if place in self.names:
                by_layer[self.names[place]] = maps.clone()  # the ReLU behind it works in place
        return by_layer

    def _load(self, vgg_type: str, weights: str | Path) -> None:
        state = _imagenet(vgg_type) if weights == "imagenet" else read_weights(weights)
        expected = self.state_dict()
        wrong = [name for name, tensor in expected.items() if name not in state or state[name].shape != tensor.shape]
        if wrong:
            raise CheckpointError(
                f"{weights}: no weights of torchvision's {vgg_type}; {wrong[0]} is missing or of another shape"
            )
        self.load_state_dict({name: state[name] for name in expected})


def _names(features: nn.Sequential) -> list[str]:
    """Name of each module: kind, block and number of the convolution in it."""
    names, block, number = [], 1, 0
    for module in features:
        if isinstance(module, nn.MaxPool2d):
            names.append(f"pool{block}")
            block, number = block + 1, 0
        else:
            number += isinstance(module, nn.Conv2d)
            names.append(f"{'conv' if isinstance(module, nn.Conv2d) else 'relu'}{block}_{number}")
    return names


def _imagenet(vgg_type: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    source = get_model_weights(vgg_type).IMAGENET1K_V1
    try:
        return source.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise CheckpointError(
            f"VGGLoss.weights: the ImageNet weights cannot be downloaded ({error}); copy {source.url} here by other "
            f"means and give its path"
        ) from error
