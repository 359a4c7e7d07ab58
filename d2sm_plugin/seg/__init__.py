"""Segmentation of restored images with mmsegmentation (the extra ``[seg]``, needed when a network is built)."""

from __future__ import annotations

from d2sm_plugin.seg.classes import ClassSet, load_class_set
from d2sm_plugin.seg.confusion import ConfusionMatrix, SegScores
from d2sm_plugin.seg.segmentor import Segmentor, build_segmentor

__all__ = [
    "ClassSet",
    "ConfusionMatrix",
    "SegScores",
    "Segmentor",
    "build_segmentor",
    "load_class_set",
]
