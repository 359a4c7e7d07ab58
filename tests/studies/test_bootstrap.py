"""Intervals of paired differences: against exact variances, SciPy's bootstrap and cases with one answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.studies.bootstrap import PairedTotals, Variances, blocks_of, mean_value, miou_value


def means(values: np.ndarray) -> np.ndarray:
    """Totals (S, F, 2) of values (S, F)."""
    return np.stack([values, np.ones_like(values)], -1)


def paired(values: np.ndarray, block: int = 1, **arguments) -> PairedTotals:
    blocks = [list(range(start, start + block)) for start in range(0, values.shape[1], block)]
    return PairedTotals(means(values), means(np.zeros_like(values)), blocks, mean_value, **arguments)


def test_one_seed_and_one_block_have_no_interval():
    actual = paired(np.arange(4.0)[None], block=4).difference()
    assert actual == (1.5, None, None, 1, 4, 1, 1)


def test_equal_runs_differ_by_nothing():
    totals = np.random.default_rng(0).integers(1, 100, (3, 40, 8)).astype(float)
    sample = PairedTotals(totals, totals, blocks_of([f"f{i:04d}" for i in range(40)], 10), miou_value)
    assert sample.difference() == (0, 0, 0, 3, 40, 4, 0)
    assert sample.variances() == Variances(0, 0, 0)


def test_equal_blocks_leave_the_seeds_alone():
    seeds = np.array([0.0, 1.0, 5.0])
    actual = paired(np.tile(seeds[:, None], (1, 12)), resamples=20_000)
    assert actual._differences(actual._seed_draws, actual._block_draws).var() == pytest.approx(
        seeds.var(ddof=1) / 3, rel=0.03
    )
    assert actual.variances().block == pytest.approx(0, abs=1e-12)


def test_one_way_interval_is_that_of_scipy():
    values = np.random.default_rng(1).gamma(2, size=(1, 200))
    actual = paired(values, resamples=20_000).difference()
    reference = stats.bootstrap(
        (values[0],), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(2)
    ).confidence_interval
    width = reference.high - reference.low
    assert (actual.low, actual.high) == pytest.approx((reference.low, reference.high), abs=0.03 * width)


def test_variances_of_an_additive_toy_are_known():
    rng, seeds, blocks = np.random.default_rng(3), 6, 18
    truth = {"seed": 0.5, "block": 2.0, "both": 1.0}
    actual = []
    for trial in range(200):
        parts = rng.normal(size=(seeds, 1)), rng.normal(size=(1, blocks)), rng.normal(size=(seeds, blocks))
        toy = sum(np.sqrt(v) * part for v, part in zip(truth.values(), parts, strict=True))
        estimate = paired(toy, resamples=500, seed=trial).variances()
        actual.append([estimate.seed, estimate.block, estimate.interaction])
    assert np.mean(actual, 0) == pytest.approx(list(truth.values()), rel=0.15)


def test_intervals_of_a_gaussian_toy_cover_the_truth():
    rng, seeds, blocks = np.random.default_rng(4), 5, 18
    hits = []
    for trial in range(400):
        toy = (
            0.3
            + 0.3 * rng.normal(size=(seeds, 1))
            + rng.normal(size=(1, blocks))
            + 0.5 * rng.normal(size=(seeds, blocks))
        )
        actual = paired(toy, resamples=400, seed=trial).difference()
        hits.append(actual.low < 0.3 < actual.high)
    assert 0.90 < np.mean(hits) <= 1.0


def test_detectable_difference_by_its_formula():
    variances = Variances(0.09, 1.8, 0.36)
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(0.09 / 3 + 1.8 / 18 + 0.36 / 54)
    assert variances.detectable(3, 18) == pytest.approx(expected)
    assert paired(np.ones((1, 5))).variances().detectable(3, 18) is None  # one seed tells nothing of others


def test_same_seed_same_interval_and_frames_in_one_block_stay_together():
    values = np.random.default_rng(5).normal(size=(2, 30))
    assert paired(values, 10).difference() == paired(values, 10).difference()
    assert paired(values, seed=1).difference() != paired(values).difference()
    alike = np.repeat(np.random.default_rng(6).normal(size=(1, 18)), 10, axis=1)  # ten frames that are one
    whole, apart = paired(alike, 10, resamples=4000).difference(), paired(alike, 1, resamples=4000).difference()
    assert whole.high - whole.low == pytest.approx(np.sqrt(10) * (apart.high - apart.low), rel=0.15)


def test_miou_of_totals_is_that_of_summed_confusion_matrices():
    rng = np.random.default_rng(7)
    matrices = rng.integers(0, 50, (2, 6, 4, 4))
    matrices[:, :, 3] = matrices[:, :, :, 3] = 0  # a class that never occurs
    right = np.einsum("sfcc->sfc", matrices)
    totals = np.concatenate([right, matrices.sum(2) + matrices.sum(3) - right], -1).astype(float)
    base, clean = np.zeros_like(totals), totals[0] * 1.0
    base[..., 4:] = totals[..., 4:]
    joint = matrices.sum(1)[..., :3, :3]
    iou = [np.diag(m) / (m.sum(0) + m.sum(1) - np.diag(m)) for m in joint]
    sample = PairedTotals(totals, base, [[0, 1], [2, 3], [4, 5]], miou_value, clean=clean)
    assert sample.difference().value == pytest.approx(100 * np.mean(iou))
    assert sample.gap_share()[0] == pytest.approx(np.mean(iou) / np.mean(iou[0]))
    with pytest.raises(ShapeError, match=r"must both be \(S, F, K\)"):
        PairedTotals(totals, base[:1], [[0]], miou_value)


def test_blocks_are_neighbours_of_one_sequence():
    keys = [f"Seq05VD_f{30 * i:05d}" for i in range(25)] + [f"0001TP_{i:06d}" for i in (9, 7, 8)]
    blocks = blocks_of(keys, 10)
    assert blocks == [[26, 27, 25], list(range(13)), list(range(13, 25))]
    assert blocks_of(["frankfurt_000001_000294_leftImg8bit", "frankfurt_000000_000294_leftImg8bit"], 10) == [[1], [0]]
    assert blocks_of(["baby", "bird"], 10) == [[0], [1]]
