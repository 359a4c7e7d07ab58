"""The feature extractor that an argument or an option block describes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.timm_features import TimmFeatures
from d2sm_plugin.features.timm_network import is_timm_network
from d2sm_plugin.registry import FEATURE_REGISTRY, build


def build_extractor(extractor: nn.Module | Mapping[str, Any] | str, where: str) -> nn.Module:
    """Return the extractor that is meant.

    Args:
        extractor: a module, which is returned itself, but for a network of timm, of which a copy becomes
            :class:`TimmFeatures` with the mean and the standard deviation it was trained with; an option block
            ``{"type": NAME, ...}``; the name of a registered extractor, built with its defaults; or timm's name of a
            network, with weights ``"auto"``.
        where: path of the key, for messages.

    Raises:
        OptionError: for anything else, or an unknown name, type or argument (with the nearest known one).

    >>> import timm
    >>> build_extractor(timm.create_model("resnet18"), "extractor").mean.flatten()
    tensor([0.4850, 0.4560, 0.4060])
    """
    if isinstance(extractor, str):
        return _by_name(extractor, where)
    if isinstance(extractor, Mapping):
        extractor = build(FEATURE_REGISTRY, extractor, where)
    if not isinstance(extractor, nn.Module):
        raise OptionError(
            f"{where}: expected a module, a name or an option block with the key 'type', got {type(extractor).__name__}"
        )
    if is_timm_network(extractor) and not isinstance(extractor, FrozenExtractor):
        return TimmFeatures(extractor)
    return extractor


def _by_name(name: str, where: str) -> nn.Module:
    check_extractor_name(name, where)
    return FEATURE_REGISTRY.get(name)() if name in FEATURE_REGISTRY else TimmFeatures(name, weights="auto")


def check_extractor_name(name: str, where: str) -> None:
    """Refuse a name that is neither that of a registered extractor nor timm's of a network.

    Raises:
        OptionError: naming the nearest ones.
    """
    import timm

    if name in FEATURE_REGISTRY or timm.is_model(name.split(".", maxsplit=1)[0]):
        return
    near = difflib.get_close_matches(name, [*FEATURE_REGISTRY.keys(), *timm.list_models()], n=3)
    hint = f"; did you mean one of {', '.join(near)}?" if near else "; timm.list_models() lists timm's"
    raise OptionError(
        f"{where}: '{name}' is neither an extractor ({', '.join(sorted(FEATURE_REGISTRY.keys()))}) nor a network of "
        f"timm{hint}"
    )
