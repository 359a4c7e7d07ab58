from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.losses import semantic_divergence
from d2sm_plugin.statistics import row_divergence
from d2sm_plugin.studies.evaluation.paired_statistics import paired_statistics


def features(count: int, distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    clear = torch.rand(count, 24, generator=generator)
    return clear + distance * torch.randn(count, 24, generator=generator), clear


def dense(restored: torch.Tensor, clear: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of eq. 2 to 5 as printed, and of its reverse, in float64."""

    def distribution(rows: torch.Tensor) -> torch.Tensor:
        rows = F.normalize(rows.double(), dim=1)
        kernel = (rows @ rows.T + 1) / 2
        kernel = kernel * (1 - torch.eye(len(rows)))
        return kernel / kernel.sum(1, keepdim=True) + torch.eye(len(rows))  # 1 log 1 = 0 on the diagonal

    p, q = distribution(restored), distribution(clear)
    return (p * (p / q).log()).sum(1), (q * (q / p).log()).sum(1)


@pytest.mark.parametrize("pairs", [50, 700, 2**20])  # one row at a time, several, all at once
def test_rows_equal_the_printed_formula(monkeypatch, pairs):
    monkeypatch.setattr(row_divergence, "_PAIRS_AT_ONCE", pairs)
    restored, clear = features(90, 0.3)
    actual = paired_statistics(restored, clear, [torch.arange(90)])
    forward, backward = dense(restored, clear)
    torch.testing.assert_close(actual.kl, forward, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(actual.reverse_kl, backward, rtol=1e-9, atol=1e-15)
    assert actual.kl.sum().item() == pytest.approx(semantic_divergence(restored, clear).item(), rel=1e-5)


def test_groups_are_compared_by_themselves():
    restored, clear = features(40, 0.3)
    groups = [torch.arange(0, 40, 2), torch.arange(1, 40, 2)]
    actual = paired_statistics(restored, clear, groups)
    for group in groups:
        torch.testing.assert_close(actual.kl[group], dense(restored[group], clear[group])[0], rtol=1e-9, atol=1e-15)


def test_distances_and_nearest():
    restored, clear = features(60, 0.4)
    actual = paired_statistics(restored, clear, [torch.arange(60)])
    cosine = 1 - F.cosine_similarity(restored.double(), clear.double())
    torch.testing.assert_close(actual.cosine, cosine, rtol=1e-9, atol=1e-12)
    assert actual.squared.mean().item() == pytest.approx(F.mse_loss(restored, clear).item(), rel=1e-6)
    nearest = (F.normalize(restored.double()) @ F.normalize(clear.double()).T).argmax(1)
    assert torch.equal(actual.own_nearest.bool(), nearest == torch.arange(60))
    assert 0 < actual.own_nearest.mean() < 1


def test_nothing_between_equal_features():
    _, clear = features(50, 0)
    clear[7] = clear[3]  # a second sample with the very same features takes nothing away
    actual = paired_statistics(clear, clear, [torch.arange(50)])
    assert [value.abs().max().item() for value in actual[:4]] == [0, 0, 0, 0]
    assert actual.own_nearest.all()


def test_further_away_is_more_divergent():
    values = [paired_statistics(*features(50, distance), [torch.arange(50)]) for distance in (0.01, 0.1, 1)]
    for name in ("kl", "reverse_kl", "squared", "cosine"):
        near, middle, far = (getattr(value, name).mean() for value in values)
        assert near < middle < far


def test_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"\(3, 2\) and \(2, 2\)"):
        paired_statistics(torch.zeros(3, 2), torch.zeros(2, 2), [])
