"""The most that lower precision can give: one convolution, with nothing around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step


def build(settings: Settings) -> Case:
    """3x3, 96 to 96 channels, on maps of 64x64 (16x16 when small), batch of 4, forward and both gradients."""
    side = 16 if settings.small else 64

    def prepare(dtype: torch.dtype, layout: torch.memory_format) -> Step:
        options: dict[str, Any] = {"dtype": dtype, "device": settings.device}
        maps = torch.randn(4, 96, side, side, **options).contiguous(memory_format=layout).requires_grad_()
        weight = (torch.randn(96, 96, 3, 3, **options) / 30).contiguous(memory_format=layout).requires_grad_()
        gradient = torch.randn(4, 96, side, side, **options).contiguous(memory_format=layout)

        def step() -> None:
            torch.autograd.grad(F.conv2d(maps, weight, padding=1), (maps, weight), gradient)

        return step

    plain, last = torch.contiguous_format, torch.channels_last
    return Case(
        f"one convolution 3x3, 96 channels, {side}x{side}, batch of 4, with gradients",
        "float32",
        {
            "float32": lambda: prepare(torch.float32, plain),
            "float32, channels_last": lambda: prepare(torch.float32, last),
            "bf16": lambda: prepare(torch.bfloat16, plain),
            "bf16, channels_last": lambda: prepare(torch.bfloat16, last),
        },
    )
