"""A training step that contains the objective, compiled on a CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from d2sm_plugin.features import TimmFeatures
from d2sm_plugin.losses import D2SMLoss, semantic_divergence

pytestmark = pytest.mark.slow  # the compiler takes half a minute


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)


def test_a_compiled_step_equals_the_plain_one_with_one_break_of_the_graph():
    extractor = TimmFeatures("tf_efficientnet_lite0", weights=None, stride=16)
    losses = [D2SMLoss(extractor, queue=100, patches="spatial") for _ in range(2)]
    network = torch.nn.Conv2d(3, 3, 3, padding=1)

    def step(loss, noisy, clear):
        restored = network(noisy)
        return F.l1_loss(restored, clear) + 1e-3 * loss(restored, clear)

    for _ in range(3):
        clear = torch.rand(2, 3, 64, 64)
        collected = []
        for run, loss in zip((step, torch.compile(step)), losses, strict=True):
            network.zero_grad()
            value = run(loss, clear + 0.1 * torch.sin(50 * clear), clear)
            value.backward()
            collected.append((value.item(), network.weight.grad.clone()))
        (value, gradient), (compiled, of_compiled) = collected
        assert compiled == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(of_compiled, gradient, rtol=1e-4, atol=1e-6)
    assert sum(counters["graph_break"].values()) <= 2
    assert losses[1].last["queue_fill"] == 96


def test_the_divergence_of_features_can_be_compiled():
    clear = torch.randn(12, 32)
    restored = (clear + 0.3 * torch.randn_like(clear)).requires_grad_()
    values = [run(restored, clear) for run in (semantic_divergence, torch.compile(semantic_divergence))]
    gradients = [torch.autograd.grad(value, restored)[0] for value in values]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])
