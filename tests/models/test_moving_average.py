from __future__ import annotations

import copy

import torch
from torch import nn

from d2sm_plugin.models.optimisation import update_average


def test_weights_move_and_buffers_are_copied():
    torch.manual_seed(0)
    current = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = copy.deepcopy(current).eval().requires_grad_(False)
    start = average[0].weight.clone()
    with torch.no_grad():
        current[0].weight.add_(1)
    current(torch.rand(2, 3, 8, 8))  # moves the running statistics
    update_average(average, current, 0.75)
    torch.testing.assert_close(average[0].weight, 0.75 * start + 0.25 * current[0].weight)
    assert torch.equal(average[1].running_mean, current[1].running_mean)
    assert average[1].running_mean.abs().max() > 0
    assert average[1].num_batches_tracked == 1
