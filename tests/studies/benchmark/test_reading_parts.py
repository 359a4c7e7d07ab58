from __future__ import annotations

import pytest
import torch

from d2sm_plugin.studies.benchmark.measure import Settings
from d2sm_plugin.studies.benchmark.reading_parts import PARTS, reading_rates, training_parts

SMALL = Settings(torch.device("cpu"), 1, True)


def test_rates_are_relative_to_those_of_pairs():
    rows = reading_rates(SMALL)
    assert [row[1] for row in rows] == 2 * [
        "PairedImageDataset",
        "NoisyImageDataset",
        "NoisyImageDataset, noise_on: device",
    ]
    for first, *rest in (rows[:3], rows[3:]):
        assert first[3] == 1 and all(row[3] == pytest.approx(row[2] / first[2]) for row in rest)


@pytest.mark.parametrize(("noise_on", "workers"), [("workers", 0), ("device", 1)])
def test_parts_of_an_iteration(noise_on, workers):
    step = training_parts(SMALL, noise_on, workers)
    for _ in range(2):
        parts = step()
        assert tuple(parts) == PARTS
        assert all(wall > 0 and cpu >= 0 for wall, cpu in parts.values())
