from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from d2sm_plugin.errors import OptionError, RegistrationError
from d2sm_plugin.losses import QueueSampler, semantic_divergence
from d2sm_plugin.statistics.formula import (
    DIVERGENCES,
    neighbour_probabilities,
    printed_divergence,
    register_divergence,
)
from d2sm_plugin.statistics.row_sums import KINDS


def features(seed, count=9, dimension=6):
    return torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_rows_are_probabilities_of_the_others():
    rows = neighbour_probabilities(features(0))
    assert rows.shape == (9, 8)
    torch.testing.assert_close(rows.sum(1), torch.ones(9, dtype=torch.float64))
    x = features(0).numpy()
    cosine = x @ x.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    kernel = np.delete((cosine[4] + 1) / 2, 4)
    np.testing.assert_allclose(rows[4], kernel / kernel.sum(), rtol=1e-12)


def test_kinds_equal_scipys():
    p, q = neighbour_probabilities(features(0)), neighbour_probabilities(features(1))
    for kind, expected in {
        "kl": entropy(p, q, axis=1),
        "reverse_kl": entropy(q, p, axis=1),
        "js": (entropy(p, q, axis=1) + entropy(q, p, axis=1)) / 2,
        "js_mixture": jensenshannon(p, q, axis=1) ** 2,
    }.items():
        np.testing.assert_allclose(DIVERGENCES[kind](p, q), expected, rtol=1e-10, err_msg=kind)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_fast_way_equals_the_formula(kind, reduction):
    clear = features(0)
    restored = (clear + 0.3 * features(1)).requires_grad_()
    expected = printed_divergence(restored, clear, kind) / (1 if reduction == "sum" else len(clear))
    value = semantic_divergence(restored, clear, kind, reduction)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(part, restored)[0] for part in (value, expected)))


@pytest.mark.parametrize("kind", sorted(set(DIVERGENCES) - set(KINDS)))
def test_dense_kinds_in_float32_and_at_the_edge(kind):
    clear = features(0, 64, 300).float()
    restored = (clear + 0.01 * features(1, 64, 300).float()).requires_grad_()
    expected = printed_divergence(restored.double(), clear.double(), kind)
    value = semantic_divergence(restored, clear, kind)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    equal_features = clear.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(semantic_divergence(equal_features, clear, kind), equal_features)
    assert gradient.abs().max() < 1e-12
    alone = clear[:1].clone().requires_grad_()
    assert semantic_divergence(alone, clear[:1], kind).item() == 0
    zero = torch.zeros(4, 300, requires_grad=True)
    (gradient,) = torch.autograd.grad(semantic_divergence(zero, clear[:4], kind), zero)
    assert torch.count_nonzero(gradient) == 0


def test_a_function_is_a_kind(monkeypatch):
    table = dict(DIVERGENCES)
    monkeypatch.setattr("d2sm_plugin.losses.functional.DIVERGENCES", table)
    monkeypatch.setattr("d2sm_plugin.statistics.formula.DIVERGENCES", table)

    @register_divergence
    def total_variation(restored, clear):
        return (restored - clear).abs().sum(1) / 2

    clear = features(0)
    restored = (clear + 0.3 * features(1)).requires_grad_()
    p, q = neighbour_probabilities(restored), neighbour_probabilities(clear)
    value = semantic_divergence(restored, clear, "total_variation")
    assert value.item() == pytest.approx((p - q).abs().sum().item() / 2, rel=1e-9)
    queue = QueueSampler(20)
    queue(restored[:5], clear[:5], "total_variation")
    assert queue(restored[5:], clear[5:], "total_variation").item() == pytest.approx(value.item(), rel=1e-9)
    register_divergence(total_variation)
    with pytest.raises(RegistrationError, match=r"divergence 'kl' is claimed twice"):
        register_divergence(_named_kl())
    with pytest.raises(OptionError, match=r"divergence: 'total_varation' is unknown.*total_variation"):
        semantic_divergence(restored, clear, "total_varation")


def _named_kl():
    def kl(restored, clear):
        return restored.sum(1)

    return kl
