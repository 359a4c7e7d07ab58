from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from d2sm_plugin.errors import OptionError
from d2sm_plugin.faces.heatmaps import draw_heatmaps, read_heatmaps


def test_values_of_the_gaussian():
    heatmaps = draw_heatmaps(torch.tensor([[8.0, 12.0], [10.0, 4.0]]), (5, 6))
    assert heatmaps.shape == (2, 5, 6)
    assert heatmaps[0, 3, 2] == 1  # x 8 -> column 2, y 12 -> row 3
    assert heatmaps[0, 3, 3].item() == pytest.approx(math.exp(-0.5))
    assert heatmaps[0, 2, 1].item() == pytest.approx(math.exp(-1))
    assert heatmaps[1].max().item() == pytest.approx(math.exp(-0.125))  # centre between two columns: below 1
    assert heatmaps[1, 1, 2] == heatmaps[1, 1, 3]


def test_batches_and_sigma():
    points = torch.rand(3, 4, 2) * 32
    together = draw_heatmaps(points, (8, 8), sigma=2.0)
    assert together.shape == (3, 4, 8, 8)
    torch.testing.assert_close(together[1], draw_heatmaps(points[1], (8, 8), sigma=2.0))
    torch.testing.assert_close(together, draw_heatmaps(points, (8, 8)).pow(0.25))


def test_reading_follows_the_second_highest_cell():
    heatmap = torch.zeros(1, 8, 8)
    heatmap[0, 3, 5], heatmap[0, 3, 6] = 1.0, 0.5  # further to the right, in the same row
    assert read_heatmaps(heatmap).tolist() == [[21.0, 11.0]]
    heatmap[0, 4, 4] = 0.75  # now lower and to the left
    assert read_heatmaps(heatmap).tolist() == [[19.0, 13.0]]
    assert read_heatmaps(heatmap, refinement="none").tolist() == [[20.0, 12.0]]


def test_reading_what_was_drawn():
    points = torch.from_numpy(np.random.default_rng(0).uniform(10, 110, (200, 2))).float()
    heatmaps = draw_heatmaps(points, (32, 32))
    assert (read_heatmaps(heatmaps, refinement="none") - points).abs().max() <= 2
    assert read_heatmaps(heatmaps.reshape(4, 50, 32, 32)).shape == (4, 50, 2)
    assert (read_heatmaps(heatmaps) - points).abs().mean() < 1.3


def test_unknown_refinement():
    with pytest.raises(OptionError, match=r"did you mean 'quarter'"):
        read_heatmaps(torch.zeros(1, 4, 4), refinement="quater")
