from __future__ import annotations

import pytest
import torch

from d2sm_plugin.losses import D2SMLoss

WINDOWS = {"type": "PatchSampler", "size": 64, "stride": 16, "mode": "shared", "shared_stride": 4}


@pytest.mark.parametrize(
    "options",
    [{}, {"queue": {"type": "QueueSampler", "size": 12}}, {"patches": WINDOWS}],
    ids=["batch", "queue", "windows"],
)
def test_agrees_with_float32(options):
    torch.manual_seed(0)
    clear = torch.nn.functional.interpolate(torch.rand(4, 3, 20, 20), size=(80, 80), mode="bicubic").clamp(0, 1)
    restored = (clear + 0.1 * torch.randn(clear.shape)).requires_grad_()
    collected = []
    for enabled in (False, True):
        torch.manual_seed(1)
        loss = D2SMLoss({"type": "TimmFeatures", "model": "resnet18", "weights": None}, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = loss(restored, clear)
        assert value.dtype == torch.float32  # the divergence is computed in full precision
        collected.append((value.item(), torch.autograd.grad(value, restored)[0].flatten()))
    (exact, gradient), (rounded, rounded_gradient) = collected
    assert rounded == pytest.approx(exact, rel=0.1) and rounded != exact
    assert torch.cosine_similarity(gradient, rounded_gradient, 0) > 0.9
