"""The recommended recipe against L1 alone: two training steps on a batch that is there already."""

from __future__ import annotations

from typing import Any

from d2sm_plugin.studies.benchmark.cases.iteration import training
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step

_L1 = {"pixel_opt": {"type": "L1Loss"}}
_D2SM = {
    "type": "D2SMLoss",
    "extractor": {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None, "stride": 16},
    "patches": {"type": "SpatialSampler", "max_positions": 64},
    "loss_weight": 1e-3,
}


def build(settings: Settings) -> Case:
    """FFDNet as in ``small_ffdnet_l1.yml`` and ``small_ffdnet_d2sm_recommended.yml``: crops of 128x128, batch of 4."""
    with_d2sm = {**_L1, "d2sm_opt": _D2SM}
    return Case(
        "two training steps, FFDNet, the recommended recipe",
        "L1",
        {
            "L1": lambda: _step(settings, _L1),
            "L1 + D2SM": lambda: _step(settings, with_d2sm),
            "L1 + D2SM, every: 2": lambda: _step(settings, {**_L1, "d2sm_opt": {**_D2SM, "every": 2}}),
            "L1, channels_last": lambda: _step(settings, _L1, channels_last=True),
            "L1 + D2SM, channels_last": lambda: _step(settings, with_d2sm, channels_last=True),
        },
    )


def _step(settings: Settings, objectives: dict[str, Any], **train: Any) -> Step:
    model, batches = training(settings, objectives, **train)
    batch, count = next(batches), iter(range(3, 10**9))  # first steps also log the norms of the gradients

    def step() -> None:
        for _ in range(2):
            model.train_step([batch], next(count))

    return step
