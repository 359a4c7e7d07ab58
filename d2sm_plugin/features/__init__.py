"""Frozen semantic feature extractors; every ``*_features.py`` registers its classes in ``FEATURE_REGISTRY``."""

from __future__ import annotations

from d2sm_plugin.features.build import build_extractor
from d2sm_plugin.features.frozen_extractor import FrozenExtractor
from d2sm_plugin.features.interface import CanSplit, Extractor, HasFeatureMap
from d2sm_plugin.features.lightcnn9_features import LightCNN9Features
from d2sm_plugin.features.timm_features import TimmFeatures
from d2sm_plugin.features.vgg19_features import VGG19Features

__all__ = [
    "CanSplit",
    "Extractor",
    "FrozenExtractor",
    "HasFeatureMap",
    "LightCNN9Features",
    "TimmFeatures",
    "VGG19Features",
    "build_extractor",
]
