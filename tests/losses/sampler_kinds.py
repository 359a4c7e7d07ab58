"""D2SM with each kind of sample, small."""

from __future__ import annotations

from d2sm_plugin.losses import PatchSampler, SpatialSampler

EXTRACTOR = {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}
SAMPLERS = {
    "crop": lambda: {"patches": PatchSampler(64, 32)},
    "shared": lambda: {"patches": PatchSampler(64, 32, mode="shared")},
    "chunks": lambda: {"patches": PatchSampler(64, 32, mode="shared", max_patches_per_chunk=4)},
    "positions": lambda: {"patches": SpatialSampler(4, seed=3), "extractor": {**EXTRACTOR, "stride": 16}},
    "whole images": dict,
}
