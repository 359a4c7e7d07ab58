from __future__ import annotations

import pytest
import torch

from d2sm_plugin.statistics import pair_products
from d2sm_plugin.statistics.pair_products import add_products, add_weighted


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("many", "few", "cached"), [(50, 7, 2**19), (50, 7, 200), (1, 1, 2**19), (5, 0, 100), (0, 3, 9)]
)
def test_equal_float64_products(monkeypatch, stored, many, few, cached):
    monkeypatch.setattr(pair_products, "_VALUES_IN_CACHE", cached)
    torch.manual_seed(0)
    computed = torch.float64 if stored == torch.float64 else torch.float32
    tolerance = 1e-13 if computed == torch.float64 else 1e-6
    rows, columns = torch.randn(few, 33, dtype=computed), torch.randn(many + 3, 33).to(stored)[3:]
    actual = torch.full((many, few), torch.nan, dtype=computed)
    add_products(actual, columns, rows.T, 0.5, anew=True)
    expected = 0.5 * columns.double() @ rows.double().T
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=10 * tolerance)
    add_products(actual, columns, rows.T)
    torch.testing.assert_close(actual.double(), 3 * expected, rtol=tolerance, atol=30 * tolerance)
    weights, total = torch.randn(many, few, dtype=computed), torch.randn(few, 33, dtype=computed)
    product = weights.double().T @ columns.double()
    expected = total.double() + product
    add_weighted(total, weights, columns)
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=10 * tolerance)
    if many:
        total.fill_(torch.nan)
    add_weighted(total, weights, columns, -2.0, anew=True)
    if many:
        torch.testing.assert_close(total.double(), -2 * product, rtol=tolerance, atol=20 * tolerance)
