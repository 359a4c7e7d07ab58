"""Places where a timm network can be cut in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features.interface import Part
from d2sm_plugin.features.timm_network import TimmNetwork


def stages(network: TimmNetwork) -> Sequence[dict[str, Any]]:
    """Name, stride and width of the stages of a timm network, none when it does not tell."""
    if not hasattr(network, "prune_intermediate_layers"):
        return []
    info: Any = getattr(network, "feature_info", [])
    return info if isinstance(info, list) else info.info


def late_part(network: TimmNetwork, model: str, stage: int, last: int | None) -> Part:
    """Late part of a timm network: from the map (B, C, h, w) of a stage to features (B, D).

    Args:
        network: without its classifier.
        model: its name, for messages.
        stage: index of the stage.
        last: index of the stage whose mean over the positions are the features; None goes on to the pre-logits.

    Raises:
        OptionError: when the stage is the last one, or the network is neither built like EfficientNet nor ResNet.
    """
    modules = _modules_behind(network, model, stages(network)[stage]["module"])
    if last is None:
        return lambda maps: network.forward_head(modules(maps), pre_logits=True)
    count = _position(network, stages(network)[last]["module"]) - _position(network, stages(network)[stage]["module"])
    if count < 1:
        raise OptionError(
            f"TimmFeatures: '{model}' is used up to the stage it is to be cut at; choose a smaller stride"
        )
    return lambda maps: modules[:count](maps).mean((2, 3))


def between(network: TimmNetwork, model: str, first: int, last: int) -> nn.Module:
    """Modules that make the map of a stage out of the map of an earlier one.

    Raises:
        OptionError: when the network is neither built like EfficientNet nor ResNet, or the earlier stage is its stem.
    """
    names = [stages(network)[stage]["module"] for stage in (first, last)]
    modules = _modules_behind(network, model, names[0])
    return modules[: _position(network, names[1]) - _position(network, names[0])]


def _modules_behind(network: TimmNetwork, model: str, name: str) -> nn.Sequential:
    """Modules from behind the one of this name up to the pooling."""
    behind = _position(network, name) + 1
    children = dict(network.named_children())
    if name.startswith("blocks.") and {"conv_head", "bn2"} <= children.keys():
        return nn.Sequential(*list(children["blocks"].children())[behind:], children["conv_head"], children["bn2"])
    layers = ("layer1", "layer2", "layer3", "layer4")
    if name in layers and children.keys() >= set(layers):
        return nn.Sequential(*(children[layer] for layer in layers[behind:]))
    raise OptionError(
        f"TimmFeatures: '{model}' cannot be cut behind its module '{name}'; cutting knows networks built like "
        f"EfficientNet or ResNet, behind a stage"
    )


def _position(network: nn.Module, name: str) -> int:
    """Index of a module among its kind: 2 for ``blocks.2``, 0 for ``layer1``."""
    return int(name.removeprefix("blocks.")) if name.startswith("blocks.") else int(name[-1]) - 1
