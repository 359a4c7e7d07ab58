"""LPIPS, a calibrated distance in the feature space of an ImageNet network, as an objective."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.errors import CheckpointError, OptionError, suggest
from d2sm_plugin.extras import import_extra
from d2sm_plugin.losses.frozen_network import FrozenNetworkObjective
from d2sm_plugin.losses.image_check import ImageCheck, check_shapes
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.precision import full_precision
from d2sm_plugin.weights import read_weights

# For each network: torchvision's name of its weights, and the smallest image whose last map is not empty.
_TRUNKS = {"alex": ("AlexNet_Weights", 31), "vgg": ("VGG16_Weights", 16), "squeeze": ("SqueezeNet1_1_Weights", 17)}
_EPSILON = 1e-10


@register(LOSS_REGISTRY)
class LPIPSLoss(FrozenNetworkObjective):
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018), version 0.1, by the package lpips.

    With feature maps f_l of five (squeeze: seven) layers, scaled to unit length along channels (the norm plus 1e-10),
    the mean over images of ``sum_l mean_hw sum_c w_lc (f_lc(restored) - f_lc(clear))**2``. The weights w, at least 0,
    were fitted to human judgments and come with the package; the network below, the trunk, is torchvision's.

    Images are given in [0, 1] and brought to the [-1, 1] of the publication inside. Networks and weights are the
    package's; where all features of a position are 0, its own formula has no finite gradient, and this one has 0.

    Args:
        net: ``"alex"`` (best as a metric), ``"vgg"`` (the authors' advice for training) or ``"squeeze"``.
        trunk: ``"imagenet"`` (downloaded by torchvision), or the path of a state dict of torchvision's ``alexnet``,
            ``vgg16`` or ``squeezenet1_1``. None gives random weights; only for tests.
        loss_weight: factor on the result.

    Raises:
        DependencyError: without the package lpips.
        OptionError: for an unknown network.
        CheckpointError: when the trunk cannot be had or is that of another network.
    """

    takes = ("restored", "gt")
    network: Any  # lpips has no annotations

    def __init__(
        self,
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        trunk: str | Path | None = "imagenet",
        loss_weight: Weight = 1.0,
    ) -> None:
        if net not in _TRUNKS:
            raise OptionError(f"LPIPSLoss.net: '{net}' is unknown{suggest(net, _TRUNKS)}")
        network = _build(net)
        if trunk is not None:
            _load_trunk(network.net, _imagenet(net) if trunk == "imagenet" else read_weights(trunk), net, trunk)
        super().__init__(network)
        self.net, self.loss_weight = net, loss_weight
        self._check = ImageCheck()

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return the weighted distance, a scalar.

        Args:
            restored: images (B, 3, H, W), RGB in [0, 1], which they may leave a little.
            clear: images (B, 3, H, W), RGB in [0, 1]; constants.

        Raises:
            ShapeError: for images of wrong shape and, at the first call, of another value range.
            OptionError: for images that are too small for the network.
        """
        check_shapes(restored, clear)
        least = _TRUNKS[self.net][1]
        if min(restored.shape[-2:]) < least:
            raise OptionError(
                f"LPIPSLoss.net: '{self.net}' needs images of at least {least}x{least}, got {restored.shape[-2]}x"
                f"{restored.shape[-1]}; set a larger datasets.train.gt_size"
            )
        self._check(restored, clear)
        with torch.no_grad():
            targets = self._features(clear)
        features = self._features(restored)
        with full_precision(restored.device):
            distances = [
                (weights.model[-1].weight * (_unit(maps) - _unit(clear_maps)).square()).sum(1).mean()
                for weights, maps, clear_maps in zip(self.network.lins, features, targets, strict=True)
            ]
            return self.loss_weight * torch.stack(distances).sum()

    def extra_repr(self) -> str:
        """Name what is no child module."""
        return f"net={self.net}, loss_weight={self.loss_weight}"

    def _features(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.net(self.network.scaling_layer(2 * images - 1))


def _unit(maps: Tensor) -> Tensor:
    """Feature maps (B, C, h, w) scaled to unit length along C."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    return maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + _EPSILON)


def _build(net: str) -> Any:
    """The package's network with its calibrated weights and a random trunk, leaving the global generators alone."""
    package = import_extra("lpips", "LPIPSLoss")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an outdated way
        # Dropout stays in, without effect in eval mode: without it the names of the calibrated weights would not fit,
        # and the package would leave them random without a word.
        return package.LPIPS(net=net, version="0.1", pnet_rand=True, use_dropout=True, verbose=False)


def _load_trunk(trunk: nn.Module, state: Mapping[str, Tensor], net: str, source: str | Path) -> None:
    """Load torchvision's ``features.N.*`` into the package's ``sliceK.N.*``."""
    named = {}
    for name, tensor in trunk.state_dict().items():
        published = f"features.{name.split('.', 1)[1]}"
        if published not in state or state[published].shape != tensor.shape:
            mistake = f"has the shape {tuple(state[published].shape)}" if published in state else "is missing"
            raise CheckpointError(
                f"{source}: the tensor {published} {mistake}, expected {tuple(tensor.shape)}; LPIPSLoss(net='{net}') "
                f"takes torchvision's weights ({_weights_of(net).url})"
            )
        named[name] = state[published]
    trunk.load_state_dict(named)


def _weights_of(net: str) -> Any:
    from torchvision import models

    return getattr(models, _TRUNKS[net][0]).IMAGENET1K_V1


def _imagenet(net: str) -> Mapping[str, Tensor]:
    weights = _weights_of(net)
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: what came has another hash
        raise CheckpointError(
            f"LPIPSLoss.trunk: the ImageNet weights cannot be downloaded ({error}); copy {weights.url} here by other "
            f"means and give its path as 'trunk'"
        ) from error
