"""D2SM with a small queue against a mean squared distance of the same features."""

from __future__ import annotations

from torch import nn

from d2sm_plugin.losses import D2SMLoss
from d2sm_plugin.losses.feature_loss import FeatureLoss
from d2sm_plugin.studies.benchmark.material import extractor, image_pair
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step


def build(settings: Settings) -> Case:
    """Eight images of 224x224 (two of 64x64 when small) through EfficientNet-Lite0, forward and backward."""
    count, side = (2, 64) if settings.small else (8, 224)

    def prepare(make: type[nn.Module], **options: object) -> Step:
        loss = make(extractor(settings), **options).to(settings.device)
        restored, clear = image_pair(count, side, settings)

        def step() -> None:
            loss(restored, clear).backward()

        return step

    return Case(
        f"loss with EfficientNet-Lite0, {count} images of {side}x{side}",
        "mean squared distance",
        {
            "mean squared distance": lambda: prepare(FeatureLoss, criterion="l2"),
            "D2SM, q=256": lambda: prepare(D2SMLoss, queue={"type": "QueueSampler", "size": 256}),
        },
    )
