"""Features of the windows of an image: the extractor on every window, in chunks, or sharing its early layers."""

from __future__ import annotations

from typing import Any

import torch

from d2sm_plugin.losses import PatchSampler
from d2sm_plugin.studies.benchmark.material import extractor, image_pair
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step


def build(settings: Settings) -> Case:
    """All windows (224, stride 56) of a 512x512 image (280x280 when small), restored and clear, and their gradient."""
    side = 280 if settings.small else 512

    def prepare(layout: torch.memory_format, fold: bool = True, **options: Any) -> Step:
        network = extractor(settings, fold=fold).to(memory_format=layout)
        sampler = PatchSampler(224, 56, **options).to(settings.device)
        restored, clear = (image.contiguous(memory_format=layout) for image in image_pair(1, side, settings))
        restored = restored.detach().requires_grad_()

        def step() -> None:
            features, clear_features = sampler(network, restored, clear)
            (features - clear_features).square().sum().backward()

        return step

    shared: dict[str, Any] = {"mode": "shared", "shared_stride": 4}
    plain, last = torch.contiguous_format, torch.channels_last
    return Case(
        f"windows of one {side}x{side} image through EfficientNet-Lite0",
        "crop, not folded",
        {
            "crop, not folded": lambda: prepare(plain, fold=False),
            "crop": lambda: prepare(plain),
            "crop, channels_last": lambda: prepare(last),
            "crop, channels_last, chunks of 4": lambda: prepare(last, max_patches_per_chunk=4),
            "shared at 4, channels_last": lambda: prepare(last, **shared),
            "shared at 4, channels_last, chunks of 12": lambda: prepare(last, **shared, max_patches_per_chunk=12),
            "shared at 4, channels_last, late bf16": lambda: prepare(last, **shared, late_dtype="bfloat16"),
        },
        rounds=5,
    )
