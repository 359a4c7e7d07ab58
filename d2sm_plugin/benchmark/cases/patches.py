"""Features of the windows of an image: the extractor on every window, in chunks, or sharing its early layers."""

from __future__ import annotations

import torch

from d2sm_plugin.benchmark.material import extractor, image_pair
from d2sm_plugin.benchmark.measure import Case, Settings, Step
from d2sm_plugin.losses import PatchSampler


def build(settings: Settings) -> Case:
    """All windows (224, stride 56) of a 512x512 image (280x280 when small), restored and clear, and their gradient."""
    side = 280 if settings.small else 512

    def prepare(layout: torch.memory_format, **options: object) -> Step:
        network = extractor(settings).to(memory_format=layout)
        sampler = PatchSampler(224, 56, **options).to(settings.device)
        restored, clear = (image.contiguous(memory_format=layout) for image in image_pair(1, side, settings))
        restored = restored.detach().requires_grad_()

        def step() -> None:
            features, clear_features = sampler(network, restored, clear)
            (features - clear_features).square().sum().backward()

        return step

    plain, last = torch.contiguous_format, torch.channels_last
    return Case(
        f"windows of one {side}x{side} image through EfficientNet-Lite0",
        "crop",
        {
            "crop": lambda: prepare(plain),
            "crop, chunks of 4": lambda: prepare(plain, max_patches_per_chunk=4),
            "crop, channels_last, chunks of 4": lambda: prepare(last, max_patches_per_chunk=4),
            "shared at 4": lambda: prepare(plain, mode="shared", shared_stride=4),
            "shared at 8": lambda: prepare(plain, mode="shared", shared_stride=8),
            "shared at 4, channels_last, chunks of 4": lambda: prepare(
                last, mode="shared", shared_stride=4, max_patches_per_chunk=4
            ),
            "shared at 8, channels_last, chunks of 4": lambda: prepare(
                last, mode="shared", shared_stride=8, max_patches_per_chunk=4
            ),
        },
        rounds=5,
    )
