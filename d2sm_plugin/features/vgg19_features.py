"""VGG19 trained on ImageNet, up to a named layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, OptionError, suggest
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.interface import Part
from d2sm_plugin.registry import FEATURE_REGISTRY, register
from d2sm_plugin.weights import read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CONVOLUTIONS = (2, 2, 4, 4, 4)  # in each of the five blocks
_CLASSIFIER = {"fc6": 2, "fc7": 5}  # modules of torchvision's classifier up to the ReLU behind the layer


def _feature_layers() -> dict[str, int]:
    """Number of modules of torchvision's ``features`` up to each named layer, in order."""
    stops, position = {}, 0
    for block, count in enumerate(_CONVOLUTIONS, start=1):
        for index in range(1, count + 1):
            stops[f"conv{block}_{index}"] = position + 1
            stops[f"relu{block}_{index}"] = position + 2
            position += 2
        position += 1
        stops[f"pool{block}"] = position
    return stops


LAYERS = (*_feature_layers(), *_CLASSIFIER)
LayerName = Literal[LAYERS]  # type: ignore[valid-type]


@register(FEATURE_REGISTRY)
class VGG19Features(FrozenExtractor):
    """Features of VGG19 (Simonyan and Zisserman, 2015), by torchvision, frozen.

    ``fc7``, after its ReLU, is the penultimate layer that the paper's experiments on Cityscapes and dehazing use
    (appendix A). Only the layers up to the named one are built and loaded.

    Args:
        layer: ``conv1_1`` ... ``conv5_4`` (before the ReLU), ``relu1_1`` ... ``relu5_4``, ``pool1`` ... ``pool5``,
            or ``fc6``, ``fc7`` (after the ReLU, 4096 values). The last two were trained on 224x224 images; the map of
            any other size of at least 32x32 is averaged to 7x7 positions first, as torchvision does.
        weights: ``"imagenet"`` (downloaded by torchvision), or a path: a state dict or checkpoint with the names of
            torchvision or timm, or the convolutions in order, if need be only the first ones. A leading 1x1
            convolution, by which some published files normalise RGB in [0, 1], is folded into the first one. None
            gives random weights, which no semantic statement can rest on; only for tests.
        pooling: what becomes of a convolutional layer: ``"flatten"`` takes all values (so all images must have one
            size), ``"mean"`` the mean over the positions. Without effect on ``fc6`` and ``fc7``.

    Raises:
        OptionError: for an unknown layer or pooling.
        CheckpointError: when the weights cannot be had or lack a layer that is needed.
    """

    def __init__(
        self,
        layer: LayerName = "fc7",
        weights: str | Path | None = "imagenet",
        pooling: Literal["flatten", "mean"] = "flatten",
    ) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        if layer not in LAYERS:
            raise OptionError(f"VGG19Features.layer: no layer '{layer}'{suggest(layer, LAYERS)}")
        if pooling not in ("flatten", "mean"):
            raise OptionError(f"VGG19Features.pooling: '{pooling}' is unknown{suggest(pooling, ('flatten', 'mean'))}")
        self.layer, self.pooling = layer, pooling
        self._build()
        if weights is not None:
            self._load(weights)
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W), RGB in [0, 1]."""
        return self._head(self.features(self.normalise(images)))

    def _head(self, maps: Tensor) -> Tensor:
        if self.layer in _CLASSIFIER:
            return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 7), 1))
        return maps.mean((2, 3)) if self.pooling == "mean" else maps.flatten(1)

    def feature_map(self, images: Tensor) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 3, H, W), RGB in [0, 1].

        Raises:
            OptionError: for ``fc6`` and ``fc7``, which have no positions.
        """
        if self.layer in _CLASSIFIER:
            raise OptionError(
                f"VGG19Features.layer: '{self.layer}' has no positions to sample; choose a map such as pool5 or conv5_4"
            )
        return self.features(self.normalise(images))

    def feature_maps(self, images: Tensor, layers: Sequence[int | str]) -> list[Tensor]:
        """Feature maps (B, C, h, w) of several layers, from one pass.

        Args:
            images: (B, 3, H, W), RGB in [0, 1].
            layers: their names, or strides, which mean the pooling layers that reach them.

        Raises:
            OptionError: for a layer without positions, or behind the one that the extractor ends with.
        """
        stops = _feature_layers()
        names = [layer if isinstance(layer, str) else f"pool{layer.bit_length() - 1}" for layer in layers]
        within = [name for name, stop in stops.items() if stop <= len(self.features)]
        for layer, name in zip(layers, names, strict=True):
            if name not in within or (not isinstance(layer, str) and layer != 2 ** int(name[-1])):
                raise OptionError(
                    f"VGG19Features: up to layer '{self.layer}' there is no map '{layer}'{suggest(str(layer), within)}"
                )
        maps, by_stop = self.normalise(images), {stops[name]: images for name in names}
        for stop, module in enumerate(self.features[: max(by_stop)], start=1):
            maps = module(maps)
            if stop in by_stop:
                by_stop[stop] = maps
                maps = maps.clone() if stop < max(by_stop) else maps  # a ReLU works in place
        return [by_stop[stops[name]] for name in names]

    def split(self, stride: int) -> tuple[Part, Part]:
        """Cut the extractor in two behind the pooling layer that reaches this stride.

        Returns:
            The early part, images (B, 3, H, W) to maps (B, C, h, w), and the late part, maps to features (B, D).

        Raises:
            OptionError: for a stride that none of the layers in use reaches.
        """
        stops = _feature_layers()
        strides = {
            2**block: stops[f"pool{block}"] for block in range(1, 6) if stops[f"pool{block}"] <= len(self.features)
        }
        if stride not in strides:
            raise OptionError(
                f"VGG19Features: up to layer '{self.layer}' no map has stride {stride}; there are "
                f"{', '.join(map(str, strides)) or 'none above 1'}"
            )
        first, rest = self.features[: strides[stride]], self.features[strides[stride] :]
        return (lambda images: first(self.normalise(images))), (lambda maps: self._head(rest(maps)))

    def early_steps(self, stride: int) -> list[tuple[Part, int]]:
        """The early part of :meth:`split` in steps, each with its stride of 2: a block up to its pooling.

        Raises:
            OptionError: for a stride that none of the layers in use reaches.
        """
        self.split(stride)
        stops = [0, *(stop for name, stop in _feature_layers().items() if name.startswith("pool"))]
        blocks = [self.features[first:stop] for first, stop in pairwise(stops)]
        blocks = blocks[: stride.bit_length() - 1]
        return [(lambda images: blocks[0](self.normalise(images)), 2), *((block, 2) for block in blocks[1:])]

    def _build(self) -> None:
        from torchvision.models import vgg19

        with torch.device("meta"):  # the layers that are not needed never take any memory
            network = vgg19(weights=None, init_weights=False)
        stop = _feature_layers().get(self.layer, len(network.features))
        self.features = network.features[:stop]
        self.classifier = network.classifier[: _CLASSIFIER.get(self.layer, 0)]
        for module in (*self.features, *self.classifier):
            module.to_empty(device="cpu")
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def _load(self, weights: str | Path) -> None:
        named = self._named(_imagenet() if weights == "imagenet" else read_weights(weights), weights)
        expected = self.state_dict()
        for name, tensor in expected.items():
            if name not in named:
                raise CheckpointError(
                    f"{weights}: holds no {self._layer_of(name)} (tensor {name}), which VGG19Features(layer="
                    f"'{self.layer}') needs; choose an earlier layer, or weights 'imagenet'"
                )
            if named[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{weights}: {self._layer_of(name)} has the shape {tuple(named[name].shape)}, expected "
                    f"{tuple(tensor.shape)}; give weights of VGG19"
                )
        self.load_state_dict({name: named[name] for name in expected})

    def _named(self, state: Mapping[str, Tensor], weights: str | Path) -> dict[str, Tensor]:
        """Tensors by torchvision's names."""
        if any(name.startswith("features.") for name in state):
            named = dict(state)
            for name_here, name_in_timm in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2")):
                if f"{name_in_timm}.weight" in state:  # timm has the fully connected layers as convolutions
                    named[f"{name_here}.weight"] = state[f"{name_in_timm}.weight"].flatten(1)
                    named[f"{name_here}.bias"] = state[f"{name_in_timm}.bias"]
            return named
        tensors = [(name.removesuffix("weight"), tensor) for name, tensor in state.items() if name.endswith("weight")]
        pairs = [(tensor, state[f"{prefix}bias"]) for prefix, tensor in tensors if f"{prefix}bias" in state]
        if len(pairs) < len(tensors) or not pairs or any(weight.ndim != 4 for weight, _ in pairs):
            raise CheckpointError(f"{weights}: expected the convolutions of VGG19, each with weight and bias")
        if pairs[0][0].shape == (3, 3, 1, 1) and len(pairs) > 1:
            pairs = [self._fold(*pairs[0], *pairs[1]), *pairs[2:]]
        indices = [stop - 1 for name, stop in _feature_layers().items() if name.startswith("conv")]
        named = {}
        for index, (weight, bias) in zip(indices, pairs, strict=False):
            named |= {f"features.{index}.weight": weight, f"features.{index}.bias": bias}
        return named

    def _fold(self, mix: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """First convolution for normalised images from a 1x1 convolution on [0, 1] images and the one behind it."""
        mix = mix[:, :, 0, 0]
        shift = shift + mix @ self.mean.flatten()
        bias = bias + (weight.sum((2, 3)) * shift).sum(1)
        return torch.einsum("ochw,ci->oihw", weight, mix * self.std.flatten()), bias

    @staticmethod
    def _layer_of(tensor_name: str) -> str:
        part, index, _ = tensor_name.split(".")
        if part == "classifier":
            return {"0": "fc6", "3": "fc7"}[index]
        return next(name for name, stop in _feature_layers().items() if stop == int(index) + 1)


def _imagenet() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    try:
        return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise CheckpointError(
            f"VGG19Features.weights: the ImageNet weights cannot be downloaded ({error}); copy "
            f"{VGG19_Weights.IMAGENET1K_V1.url} here by other means and give its path"
        ) from error
