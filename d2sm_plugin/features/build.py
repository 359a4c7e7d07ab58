"""The feature extractor that an argument or an option block describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import FEATURE_REGISTRY, build


def build_extractor(extractor: nn.Module | Mapping[str, Any], where: str) -> nn.Module:
    """Return the extractor itself, or the one an option block ``{"type": NAME, ...}`` describes.

    Raises:
        OptionError: for anything else, or an unknown type or argument (with the nearest known one).
    """
    if isinstance(extractor, Mapping):
        extractor = build(FEATURE_REGISTRY, extractor, where)
    if not isinstance(extractor, nn.Module):
        raise OptionError(
            f"{where}: expected a module or an option block with the key 'type', got {type(extractor).__name__}"
        )
    return extractor
