"""Objectives; every ``*_loss.py`` and ``*_sampler.py`` registers its classes in BasicSR's ``LOSS_REGISTRY``."""

from __future__ import annotations

from d2sm_plugin.losses.d2sm_loss import D2SMLoss
from d2sm_plugin.losses.functional import semantic_divergence
from d2sm_plugin.losses.patch_sampler import PatchSampler
from d2sm_plugin.losses.queue_sampler import QueueSampler
from d2sm_plugin.losses.relative_weight import RelativeWeight
from d2sm_plugin.losses.spatial_sampler import SpatialSampler

__all__ = ["D2SMLoss", "PatchSampler", "QueueSampler", "RelativeWeight", "SpatialSampler", "semantic_divergence"]
