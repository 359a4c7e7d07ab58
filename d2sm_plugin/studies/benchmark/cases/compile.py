"""A whole training iteration with a compiled network; compiling takes minutes on a CPU."""

from __future__ import annotations

from d2sm_plugin.studies.benchmark.cases.iteration import our_step
from d2sm_plugin.studies.benchmark.cases.precision import D2SM
from d2sm_plugin.studies.benchmark.measure import Case, Settings


def build(settings: Settings) -> Case:
    """FFDNet with L1 and patch-wise D2SM, channels_last."""
    objectives = {"pixel_opt": {"type": "L1Loss"}, "d2sm_opt": D2SM}
    return Case(
        "training iteration with train.compile, FFDNet, L1 + D2SM on windows",
        "not compiled",
        {
            "not compiled": lambda: our_step(settings, objectives, channels_last=True),
            "compiled": lambda: our_step(settings, objectives, channels_last=True, compile=True),
        },
        rounds=7,
    )
