from __future__ import annotations

import pytest
import torch

from d2sm_plugin.statistics import pair_products
from d2sm_plugin.statistics.pair_products import add_weighted, products


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
    actual = products(columns, rows)
    assert actual.dtype == computed and actual.shape == (many, few)
    torch.testing.assert_close(actual.double(), columns.double() @ rows.double().T, rtol=tolerance, atol=10 * tolerance)
    weights, total = torch.randn(many, few, dtype=computed), torch.randn(few, 33, dtype=computed)
    expected = total.double() + weights.double().T @ columns.double()
    add_weighted(total, weights, columns)
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=10 * tolerance)
