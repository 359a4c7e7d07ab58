from __future__ import annotations

import pytest
import torch

from d2sm_plugin.studies.benchmark.measure import Settings
from d2sm_plugin.studies.benchmark.parts import measure_parts


@pytest.mark.parametrize("shared", [False, True])
def test_parts_of_an_iteration(shared):
    parts = measure_parts(Settings(torch.device("cpu"), 1, True), shared)()
    assert set(parts) == {
        "data",
        "network, forward",
        "objectives, forward",
        "objectives, backward",
        "network, backward",
        "optimiser",
    }
    assert all(part > 0 for part in parts.values())
