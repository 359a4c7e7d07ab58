"""Under torch.compile an objective is one break of the graph: what is before it and behind it stays compiled."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from d2sm_reference import TinyExtractor

from d2sm_plugin.losses import D2SMLoss
from d2sm_plugin.losses.multi_layer_d2sm_loss import MultiLayerD2SMLoss

OBJECTIVES = {
    "whole images": lambda: D2SMLoss(TinyExtractor()),
    "queue": lambda: D2SMLoss(TinyExtractor(), queue=24),
    "positions": lambda: D2SMLoss(TinyExtractor(), patches="spatial", queue=64),
    "windows": lambda: D2SMLoss(TinyExtractor(), patches={"type": "PatchSampler", "size": 16, "stride": 8}),
    "shared windows": lambda: D2SMLoss(
        TinyExtractor(),
        patches={"type": "PatchSampler", "size": 16, "stride": 8, "mode": "shared", "shared_stride": 2},
    ),
    "centred": lambda: D2SMLoss(TinyExtractor(), kernel="centred_cosine"),
    "several maps": lambda: MultiLayerD2SMLoss(Maps(), [4, 2], queue=64),
}


class Maps(TinyExtractor):
    """Maps of both strides."""

    def feature_maps(self, images, layers):
        first = torch.tanh(self.first(images))
        maps = {2: first, 4: F.softplus(self.second(first))}
        return [maps[layer] for layer in layers]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_one_break(name):
    torch.compiler.reset()
    torch.manual_seed(0)
    loss, network = OBJECTIVES[name](), torch.nn.Conv2d(3, 3, 3, padding=1)

    def step(noisy, clear):
        restored = network(noisy)
        return F.l1_loss(restored, clear) + 1e-3 * loss(restored, clear)

    clear = torch.rand(4, 3, 32, 32)
    explained = torch._dynamo.explain(step)(clear + 0.1, clear)
    reasons = [reason.reason for reason in explained.break_reasons]
    assert explained.graph_break_count <= 1, reasons  # network and L1 | the objective | their sum
    assert explained.graph_count <= 2
