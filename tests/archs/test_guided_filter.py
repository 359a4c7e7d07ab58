from __future__ import annotations

import pytest
import torch

from d2sm_plugin.archs.guided_filter import guided_filter


def by_the_definition(guide, values, radius, eps):
    """A linear model fitted in every window, and at a pixel the mean of all models that cover it."""
    slope, offset = torch.empty_like(guide), torch.empty_like(guide)

    def window(plane, row, column):
        return plane[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]

    positions = [(row, column) for row in range(guide.shape[0]) for column in range(guide.shape[1])]
    for position in positions:
        x, y = window(guide, *position).flatten(), window(values, *position).flatten()
        slope[position] = ((x * y).mean() - x.mean() * y.mean()) / (x.var(correction=0) + eps)
        offset[position] = y.mean() - slope[position] * x.mean()
    result = torch.empty_like(guide)
    for position in positions:
        result[position] = window(slope, *position).mean() * guide[position] + window(offset, *position).mean()
    return result


@pytest.mark.parametrize("radius", [0, 1, 4, 30])
def test_agrees_with_the_definition(radius):
    torch.manual_seed(0)
    guide, values = torch.rand(2, 9, 13, dtype=torch.float64)
    expected = by_the_definition(guide, values, radius, 0.01)
    torch.testing.assert_close(guided_filter(guide, values, radius, 0.01), expected)
    batch = guided_filter(guide.expand(2, 1, -1, -1), values.expand(2, 1, -1, -1), radius, 0.01)
    torch.testing.assert_close(batch[1, 0], expected)


def test_keeps_what_the_guide_explains_and_what_is_constant():
    guide = torch.rand(20, 30, dtype=torch.float64)
    torch.testing.assert_close(guided_filter(guide, 3 * guide - 1, 4, 1e-10), 3 * guide - 1, atol=1e-6, rtol=0)
    constant = torch.full((20, 30), 0.3)
    assert guided_filter(guide, constant, 4, 1e-4).dtype == torch.float32
    torch.testing.assert_close(guided_filter(guide, constant, 4, 1e-4), constant)


def test_gradient():
    guide, values = torch.rand(2, 1, 1, 5, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g, v: guided_filter(g, v, 2, 0.05), (guide, values))
