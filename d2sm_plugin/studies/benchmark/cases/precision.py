"""A whole training iteration in other precisions and layouts."""

from __future__ import annotations

from d2sm_plugin.studies.benchmark.cases.iteration import our_step
from d2sm_plugin.studies.benchmark.measure import Case, Settings

D2SM = {
    "type": "D2SMLoss",
    "extractor": {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None},
    "patches": {"type": "PatchSampler", "size": 96, "stride": 32, "mode": "shared"},
    "queue": {"type": "QueueSampler", "size": 256},
    "loss_weight": 1e-3,
}


def build(settings: Settings) -> Case:
    """FFDNet with L1 and patch-wise D2SM; forward, backward, optimiser."""
    objectives = {"pixel_opt": {"type": "L1Loss"}, "d2sm_opt": D2SM}
    return Case(
        "training iteration, FFDNet, L1 + D2SM on windows",
        "float32",
        {
            "float32": lambda: our_step(settings, objectives),
            "float32, channels_last": lambda: our_step(settings, objectives, channels_last=True),
            "bf16": lambda: our_step(settings, objectives, amp="bf16"),
            "bf16, channels_last": lambda: our_step(settings, objectives, amp="bf16", channels_last=True),
        },
        rounds=7,
    )
