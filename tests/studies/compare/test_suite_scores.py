from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from types import SimpleNamespace

import numpy as np
import pytest
from compare_material import base_options, suite_content, write_suite

from d2sm_plugin.errors import OptionError
from d2sm_plugin.pipeline.pictures import most_detailed
from d2sm_plugin.studies.compare import compare as cli
from d2sm_plugin.studies.compare import plots
from d2sm_plugin.studies.compare.cost import cost_lock, measure_training, read_cost
from d2sm_plugin.studies.compare.fingerprint import essence, fingerprint
from d2sm_plugin.studies.compare.grids import _suffix, draw_grid
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.plots import plot_trade, read_curves
from d2sm_plugin.studies.compare.report import report_lock, write_report
from d2sm_plugin.studies.compare.scores import Column, Scores, summarise
from d2sm_plugin.studies.compare.suite import read_suite
from d2sm_plugin.studies.compare.tables import markdown, shown

#: variant -> seed -> PSNR at sigma 25
VALUES = {"L1": {0: 30.0, 1: 31.0, 2: 32.0}, "A": {0: 30.5, 1: 31.3, 2: 32.4}, "B": {0: 29.0, 2: 30.0}, "C": {1: 31.0}}


@pytest.fixture
def suite_and_jobs(photographs, tmp_path):
    """A suite whose results are written down by hand: mIoU is ten times the PSNR."""
    content = suite_content(
        photographs, seeds=[0, 1, 2], variants={name: {} for name in VALUES}, columns=["psnr", "mIoU"]
    )
    for number, name in enumerate(VALUES):
        content["variants"][name] = {"options": {"train": {"ema_decay": number / 10}}}
    content["test"]["datasets"]["test"]["sigma"] = [25]
    content["test"]["val"]["segmentation"] = {"config": "config.py", "checkpoint": "hrnet.pth", "labels": "labels"}
    path = write_suite(tmp_path, content, base_options(photographs))
    suite, base = read_suite(path)
    jobs = make_jobs(suite, base, tmp_path / "out", path)
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        metrics = {"psnr": 20.0, "clean/mIoU": 400.0}
        if job.kind == "run":
            if job.seed not in VALUES[job.row]:
                continue
            metrics = {"psnr": VALUES[job.row][job.seed], "mIoU": 10 * VALUES[job.row][job.seed]}
            (job.folder / "trained.json").write_text("{}")
        job.result.write_text(json.dumps({"sets": {"photos_sigma25": metrics}}))
    return suite, jobs


@pytest.fixture
def scores(suite_and_jobs):
    return Scores(*suite_and_jobs)


def test_mean_and_sample_deviation():
    summary = summarise([1.0, 2.0, 4.0])
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.deviation == pytest.approx(((16 / 9 + 1 / 9 + 25 / 9) / 2) ** 0.5)
    assert summarise([5.0]).deviation is None
    assert summarise([]) is None


@pytest.mark.parametrize("values", [[float("nan"), 30.0], [float("inf"), float("-inf")], [float("inf")]])
def test_values_that_are_not_finite_have_no_mean(values):
    summary = summarise(values)
    assert np.isnan(summary.mean)
    assert (summary.deviation, summary.count) == (None, len(values))


def test_report_stands_a_training_that_diverged(suite_and_jobs, tmp_path):
    suite, jobs = suite_and_jobs
    for job in jobs:
        if job.row == "A":
            job.result.write_text(json.dumps({"sets": {"photos_sigma25": {"psnr": 5.0, "mIoU": float("nan")}}}))
    text = write_report(suite, jobs, tmp_path / "report", grids=False)
    [line] = [line for line in text.splitlines() if line.startswith("| A ") and "5.000" in line]
    assert line.split("|")[4].strip() == "-"


def test_calls_that_report_at_one_time_wait_for_each_other(suite_and_jobs, tmp_path):
    suite, jobs = suite_and_jobs
    with ThreadPoolExecutor(1) as pool:
        with report_lock(tmp_path / "report"):
            other = pool.submit(write_report, suite, jobs, tmp_path / "report", grids=False)
            with pytest.raises(FutureTimeout):
                other.result(timeout=0.3)
        assert "| L1 " in other.result(timeout=60)


def test_grids_of_sets_with_one_noise_level_have_names_of_their_own():
    assert _suffix({"sigma": 25}, "kodak_sigma25", [25, 50]) == "25"
    assert _suffix({"sigma": 25}, "kodak_sigma25", [25, 25]) == "kodak_sigma25"
    assert _suffix({}, "faces", [None]) == "faces"


def test_summary_rank_and_paired_difference(scores):
    psnr, miou = scores.columns
    assert (psnr.metric, psnr.sigma, miou.metric) == ("psnr", 25, "mIoU")
    assert scores.summary("L1", psnr).mean == 31.0
    assert scores.summary("L1", psnr).deviation == pytest.approx(1.0)
    assert scores.ranks(psnr) == {"A": 1, "L1": 2, "C": 2, "B": 4}
    difference = scores.difference("A", psnr)  # 0.5, 0.3, 0.4: far below the spread of the seeds
    assert (difference.mean, difference.deviation, difference.count) == (pytest.approx(0.4), pytest.approx(0.1), 3)
    assert scores.difference("B", psnr).mean == pytest.approx(-1.5)  # seeds 0 and 2 alone: -1, -2
    assert scores.difference("B", psnr).deviation == pytest.approx(0.5**0.5)
    assert scores.difference("C", psnr).deviation is None


def test_table_in_markdown(scores):
    lines = [" ".join(line.split()) for line in markdown(scores, {"L1": {"time": 1, "memory": 1}}).splitlines()]
    assert "| | seeds | σ = 25 PSNR [dB] | MIoU [%] | time | memory |" in lines
    assert "| L1 | 3 | 31.000 ± 1.000 (2) | 310.00 ± 10.00 (2) | 1.00× | 1.00× |" in lines
    assert "| A | 3 | **31.400 ± 0.954** (1) | **314.00 ± 9.54** (1) | | |" in lines
    assert "| B | 2 of 3 | 29.500 ± 0.707 (4) | 295.00 ± 7.07 (4) | | |" in lines
    assert "| C | 1 of 3 | 31.000 (2) | 310.00 (2) | | |" in lines
    assert "| | pairs | σ = 25 PSNR [dB] | MIoU [%] |" in lines
    assert "| A | 3 | +0.400 ± 0.100 | +4.00 ± 1.00 |" in lines
    assert "| C | 1 | +0.000 | +0.00 |" in lines
    assert "| noisy | | 20.000 | | | |" in lines
    assert "| clean | | | 400.00 | | |" in lines
    assert lines.index("| noisy | | 20.000 | | | |") < lines.index(
        "| L1 | 3 | 31.000 ± 1.000 (2) | 310.00 ± 10.00 (2) | 1.00× | 1.00× |"
    )


def test_pairs_are_the_seeds_that_the_baseline_has_too(suite_and_jobs):
    suite, jobs = suite_and_jobs
    next(job for job in jobs if (job.row, job.seed) == ("L1", 1)).result.unlink()
    lines = [" ".join(line.split()) for line in markdown(Scores(suite, jobs), {}).splitlines()]
    assert "| A | 2 | +0.450 ± 0.071 | +4.50 ± 0.71 |" in lines
    assert "| C | 0 | | |" in lines


def test_versions_are_named_and_differences_said(suite_and_jobs):
    suite, jobs = suite_and_jobs
    assert "rained with" not in markdown(Scores(suite, jobs), {})  # runs that do not say
    trained = [job for job in jobs if job.seed is not None and job.trained()]
    for job in trained:
        (job.folder / "trained.json").write_text(json.dumps({"versions": "torch 2"}))
    assert markdown(Scores(suite, jobs), {}).endswith("\n\nTrained with torch 2.\n")
    for job in trained:
        if job.row == "B":
            (job.folder / "trained.json").write_text(json.dumps({"versions": "torch 3"} if job.seed else {}))
    last = markdown(Scores(suite, jobs), {}).splitlines()[-1]
    assert last.startswith("Versions differ: L1 #0 #1 #2, A #0 #1 #2, C #1 trained with torch 2; B #")
    assert "B #2 trained with torch 3" in last
    assert "B #0 trained with versions not recorded" in last


def test_half_written_rows_of_metrics_are_left_out(suite_and_jobs):
    _, jobs = suite_and_jobs
    job = next(job for job in jobs if job.seed is not None)
    job.experiment.mkdir(parents=True)
    file = job.experiment / "metrics.csv"
    whole = "iter,dataset,images,metric,value\r\n2,photos,6,psnr,31.25\r\n"
    for half in ("", "4,pho", "4,photos,6,psnr,", "4,photos,6,psnr,3", "4,photos\r\n"):
        file.write_text(whole + half, newline="")
        assert read_curves(jobs) == {job.row: {"psnr": {"photos": {job.seed: {2: 31.25}}}}}


def test_legend_and_markers_of_many_variants(suite_and_jobs, tmp_path, monkeypatch):
    suite, jobs = suite_and_jobs
    scores = Scores(suite, jobs)
    scores.suite = suite.model_copy(update={"variants": {f"v{i}": suite.variants["L1"] for i in range(12)}})
    pairs = {
        name: {0: {"a": {"psnr": 30.0, "mIoU": 50.0}, "b": {"psnr": 30.0, "mIoU": 50.0}}}
        for name in scores.suite.variants
    }
    del pairs["v3"][0]["a"]
    scores.values, scores.expected = pairs, dict.fromkeys(pairs, 1)
    scores.columns = [Column(s, None, metric, False) for s in "ab" for metric in ("psnr", "mIoU")]
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    assert plot_trade(scores, tmp_path / "trade.png")
    [legend] = figures[0].legends
    assert [text.get_text() for text in legend.texts] == list(pairs)
    looks = {(bars[0].get_color(), bars[0].get_marker()) for bars in figures[0].axes[1].containers}
    assert len(looks) == 12


def test_cost_is_measured_by_one_call_at_a_time(suite_and_jobs, tmp_path, monkeypatch):
    suite, jobs = suite_and_jobs
    due = [True, False]  # before the lock, and once another call has measured
    monkeypatch.setattr(cli, "_cost_is_due", lambda *_: due.pop(0))
    monkeypatch.setattr(cli, "measure_cost", lambda *_: pytest.fail("measured twice"))
    args = SimpleNamespace(cost_only=False, out=tmp_path / "out")
    with ThreadPoolExecutor(1) as pool:
        with cost_lock(args.out):
            other = pool.submit(cli._measure_cost, suite, jobs, tmp_path, args)
            with pytest.raises(FutureTimeout):
                other.result(timeout=0.3)
        other.result(timeout=60)
    assert due == []


def test_lower_is_better_where_the_metric_says_so(suite_and_jobs):
    suite, jobs = suite_and_jobs
    suite.test.val["metrics"]["psnr"]["better"] = "lower"
    scores = Scores(suite, jobs)
    assert scores.ranks(scores.columns[0]) == {"B": 1, "L1": 2, "C": 2, "A": 4}
    suite.test.val["metrics"]["psnr"] = {"type": "SemanticDivergence"}  # which says so itself
    assert Scores(suite, jobs).ranks(scores.columns[0]) == {"B": 1, "L1": 2, "C": 2, "A": 4}


def test_trade_is_drawn(scores, tmp_path):
    assert plot_trade(scores, tmp_path / "trade.png")
    assert (tmp_path / "trade.png").stat().st_size > 5000
    assert not plot_trade(scores, tmp_path / "none.png", up="nrmse")


def test_cost_ratios_hold_for_the_present_definition_alone(suite_and_jobs, tmp_path):
    suite, jobs = suite_and_jobs
    marks = {job.row: fingerprint(essence(job.train)) for job in jobs if job.train is not None}
    variants = {
        "L1": {"definition": marks["L1"], "wall": [9.0, 9.0], "cpu": [1.0, 2.0], "peak_mib": 100.0},
        "A": {"definition": marks["A"], "wall": [9.0, 9.0], "cpu": [1.5, 5.0], "peak_mib": 150.0},
        "B": {"definition": "changed", "wall": [9.0, 9.0], "cpu": [1.0, 1.0], "peak_mib": 1.0},
    }
    (tmp_path / "cost.json").write_text(json.dumps({"device": "cpu", "variants": variants}))
    cost = read_cost(suite, jobs, tmp_path)
    assert cost == {"L1": {"time": 1.0, "memory": 1.0}, "A": {"time": 2.0, "memory": 1.5}}  # of 1.5 and 2.5
    assert read_cost(suite, jobs, tmp_path / "nowhere") == {}


def test_cost_of_a_training(photographs):
    measured = measure_training(base_options(photographs), steps=3, drop=1)
    assert measured["device"] == "cpu"
    assert measured["wall"] > 0
    assert measured["peak_mib"] >= 0


def test_the_most_detailed_window_is_found():
    image = np.full((60, 80, 3), 128, np.uint8)
    image[30:40, 50:62] = np.random.default_rng(0).integers(0, 256, (10, 12, 1))
    y, x, height, width = most_detailed(image, 16)
    assert (height, width) == (16, 16)
    assert 24 <= y <= 30
    assert 46 <= x <= 51  # the window covers the texture
    assert most_detailed(image, 200) == (0, 0, 60, 80)


def test_grid_of_crops(suite_and_jobs):
    suite, _ = suite_and_jobs
    clean = np.zeros((40, 50, 3), np.uint8)
    suite.grid.crop = [4, 6, 32, 40]
    grid = draw_grid(suite, {"L1": clean + 10, "A": clean + 5, "B": clean}, clean + 90, clean)
    assert [name.split()[0] for name in grid.windows] == ["noisy", "L1", "A", "B", "clean"]
    assert (grid.images()["clean"] == 0).all()
    assert grid.pixels.shape[1] == 4 * 280 + 3 * 4  # 40 pixels wide, enlarged seven times, four to a line
    suite.grid.crop = [4, 6, 40, 40]
    with pytest.raises(OptionError, match=r"grid\.crop: \[4, 6, 40, 40\] .* is not inside the image of 40x50"):
        draw_grid(suite, {}, clean, clean)


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.22099, "lpips", "0.221"), (0.2099, "lpips", "0.210"), (0.9996, "lpips", "1.00"),
        (-0.0118, "lpips", "-0.0118"), (12.346, "fid", "12.35"), (0.0, "lpips", "0.00"),
        (0.89, "ssim", "0.8900"), (float("nan"), "lpips", "-"),
    ],
)  # fmt: skip
def test_figures_have_the_digits_that_their_metric_is_worth(value, metric, text):
    assert shown(value, metric) == text
