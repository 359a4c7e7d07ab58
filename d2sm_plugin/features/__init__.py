"""Frozen semantic feature extractors; every ``*_features.py`` registers its classes in ``FEATURE_REGISTRY``."""

from __future__ import annotations

from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.registry import FEATURE_REGISTRY, build_extractor
from d2sm_plugin.registry import import_modules_with_suffix

__all__ = ["FEATURE_REGISTRY", "FrozenExtractor", "build_extractor"]

import_modules_with_suffix(__name__, "_features")
