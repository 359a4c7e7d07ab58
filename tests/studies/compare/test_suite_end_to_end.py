from __future__ import annotations

import csv
import shutil
import signal
import time

import cv2
import pytest
import torch
from compare_material import base_options, run_compare, start_compare, suite_content, write_suite

from d2sm_plugin.errors import OptionError
from d2sm_plugin.pipeline.checkpoint import CheckpointStore
from d2sm_plugin.pipeline.experiment import versions
from d2sm_plugin.studies.compare.compare import main
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.runner import start_process
from d2sm_plugin.studies.compare.suite import read_suite
from d2sm_plugin.studies.report.report import report
from d2sm_plugin.weight_files import load_file

BROKEN = {"seeds": [0], "options": {"path": {"pretrain_network_g": "there_is_no_such_file.pth"}}}


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    """A suite that has run: two variants, two seeds, and a variant that cannot start."""
    folder = tmp_path_factory.mktemp("suite")
    content = suite_content(photographs)
    content["variants"]["broken"] = BROKEN
    path = write_suite(folder, content, base_options(photographs))
    out = folder / "out"
    status, printed = run_compare(path, "--out", out, "--jobs", 2)
    return path, out, status, printed


def compare(*arguments):
    return main([str(argument) for argument in arguments])


def jobs_of(path, out):
    suite, base = read_suite(path)
    return make_jobs(suite, base, out, path)


def test_failing_variant_is_reported_and_the_others_go_on(finished):
    path, out, status, printed = finished
    assert status == 1
    assert "broken, seed 0: failed with status 2" in printed
    assert "there_is_no_such_file.pth: no such file" in printed
    assert "log.txt" in printed
    states = {(job.row, job.seed): job.state() for job in jobs_of(path, out)}
    assert states.pop(("broken", 0)) == "not started"
    assert set(states.values()) == {"finished"}
    table = (out / "tiny" / "table.md").read_text()
    assert "| broken   | 0 of 1 (failed: 1) |" in table
    assert "Failed: broken, seed 0." in table


def test_intervals_come_from_the_images_of_the_tests(finished):
    _, out, *_ = finished
    with (out / "tiny" / "intervals.csv").open(newline="") as file:
        rows = {(row["variant"], row["sigma"]): row for row in csv.DictReader(file)}
    assert set(rows) == {("L1 twice", "25"), ("L1 twice", "50")}
    row = rows["L1 twice", "50"]
    with (out / "tiny" / "table_mean.csv").open(newline="") as file:
        [mean] = [r for r in csv.DictReader(file) if (r["variant"], r["sigma"]) == ("L1 twice", "50")]
    assert float(row["difference"]) == pytest.approx(float(mean["difference"]), abs=1e-9)
    assert (row["seeds"], row["frames"]) == ("2", "2")
    assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])


def test_the_report_of_a_suite_is_one_page_with_sliders(finished):
    _, out, *_ = finished
    with (out / "tiny" / "images.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "L1 twice" and row["set"].endswith("50")]
    with (out / "tiny" / "intervals.csv").open(newline="") as file:
        [interval] = [row for row in csv.DictReader(file) if row["sigma"] == "50"]
    assert {(row["metric"], row["better"], row["seeds"]) for row in rows} == {("psnr", "higher", "2")}
    mean = sum(float(row["difference"]) for row in rows) / len(rows)
    assert mean == pytest.approx(float(interval["difference"]), abs=1e-9)
    page = report(out / "tiny")
    assert page.count('class="slider"') == 4  # two images at two levels
    assert "less L1</th>" in page and "L1 twice: " in page


def test_tables_hold_what_the_tests_measured(finished):
    path, out, *_ = finished
    with (out / "tiny" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = {(r["variant"], r["seed"], r["sigma"], r["metric"]): float(r["value"]) for r in rows}
    assert len(values) == 2 + 2 * 2 * 2  # noisy, and two variants with two seeds, at two levels
    for job in jobs_of(path, out):
        if job.seed is not None and job.row != "broken":
            assert values[job.row, str(job.seed), "25", "psnr"] == job.scores()["photos_sigma25"]["psnr"]
    assert 20.2 < values["noisy", "", "25", "psnr"] < 21.5
    with (out / "tiny" / "table_mean.csv").open(newline="") as file:
        means = {(r["variant"], r["sigma"]): r for r in csv.DictReader(file)}
    repeated = [values["L1 twice", seed, "50", "psnr"] for seed in "01"]
    base = [values["L1", seed, "50", "psnr"] for seed in "01"]
    row = means["L1 twice", "50"]
    assert float(row["mean"]) == pytest.approx(sum(repeated) / 2)
    assert float(row["sd"]) == pytest.approx(abs(repeated[0] - repeated[1]) / 2**0.5)
    paired = [a - b for a, b in zip(repeated, base, strict=True)]
    assert float(row["difference"]) == pytest.approx(sum(paired) / 2)
    assert float(row["difference_sd"]) == pytest.approx(abs(paired[0] - paired[1]) / 2**0.5)
    assert row["seeds"] == "2"


def test_pictures_are_written(finished):
    _, out, *_ = finished
    report = out / "tiny"
    assert cv2.imread(str(report / "convergence.png")) is not None
    grids = sorted(file.name for file in report.glob("grid_*.png"))
    assert grids == [f"grid_astronaut_{n}_{sigma}.png" for n in (0, 1) for sigma in (25, 50)]


def test_finished_runs_are_not_touched_again(finished):
    path, out, *_ = finished
    before = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*") if file.is_file()}
    assert compare(path, "--out", out, "--only", "L1", "--no-cost") == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_suites_share_runs_and_a_changed_test_trains_nothing_again(finished, photographs):
    path, out, *_ = finished
    content = suite_content(photographs, name="other", variants={"plain": {}, "new": {"options": {"scale": 1}}})
    content |= {"baseline": "plain"}
    content["test"]["datasets"]["test"]["sigma"] = [35]
    other = write_suite(path.parent, content, base_options(photographs), "other.yml")
    names = {(job.row, job.seed): job for job in jobs_of(other, out)}
    known = {(job.row, job.seed): job for job in jobs_of(path, out)}
    for seed in (0, 1):
        assert names["plain", seed].folder == names["new", seed].folder == known["L1", seed].folder
        assert names["plain", seed].state() == "to test"


def test_changed_definition_is_refused(finished, tmp_path, capsys):
    path, out, *_ = finished
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    changed = ["--force_yml", "variants:L1 twice:options:train:pixel_opt:loss_weight=3.0"]
    with pytest.raises(OptionError, match=r"variant 'L1 twice' has runs in .* --rerun") as error:
        compare(path, "--out", copy, *changed)
    assert "train.pixel_opt.loss_weight was 2.0, is now 3.0" in str(error.value)
    assert compare(path, "--out", copy, "--report-only", "--rerun", *changed) == 0
    assert "| L1 twice | 0 of 2" in capsys.readouterr().out


def long_suite(photographs, folder, steps):
    base = base_options(photographs)
    base["train"]["total_iter"] = steps
    content = suite_content(photographs, seeds=[3], variants={"L1": {}}, untrained=dict.fromkeys(("input", "clean")))
    path = write_suite(folder, content, base)
    [job] = jobs_of(path, folder / "out")
    return path, job


def wait_for_checkpoint(job, process):
    while not CheckpointStore(job.experiment).iterations():
        assert process.poll() is None, (job.folder / "log.txt").read_text()
        time.sleep(0.01)


def test_killed_run_continues_and_ends_with_the_same_weights(photographs, tmp_path):
    path, job = long_suite(photographs, tmp_path, 40)
    process = start_process(job, 0, 1)
    wait_for_checkpoint(job, process)
    assert job.state() == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not job.trained()
    assert job.state().startswith("stopped at step ")
    assert compare(path, "--out", tmp_path / "out", "--no-cost") == 0
    assert "Continuing from" in (job.folder / "log.txt").read_text()
    assert f"Trained with {versions()}." in (tmp_path / "out" / "tiny" / "table.md").read_text()
    # In processes of its own as well: the number of threads changes the last bits.
    assert compare(path, "--out", tmp_path / "uninterrupted", "--no-cost") == 0
    weights = [
        load_file(tmp_path / out / "experiments" / job.name / "models" / "net_g_40.safetensors")["params"]
        for out in ("uninterrupted", "out")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_training_of_two_processes(photographs, tmp_path):
    content = suite_content(photographs, seeds=[0], variants={"L1": {}}, processes=2)
    path = write_suite(tmp_path, content, base_options(photographs))
    assert compare(path, "--out", tmp_path / "out") == 0
    [job] = [job for job in jobs_of(path, tmp_path / "out") if job.seed is not None]
    log = (job.folder / "log.txt").read_text()
    assert "2 process(es)" in log
    assert "joint batch: 4 x 1" in log
    assert (tmp_path / "out" / "tiny" / "cost.json").is_file()
    assert "1.00×" in (tmp_path / "out" / "tiny" / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_stops_its_children_in_order(photographs, tmp_path, number):
    path, job = long_suite(photographs, tmp_path, 100_000)
    process = start_compare(path, "--out", tmp_path / "out")
    wait_for_checkpoint(job, process)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "Stopping: the trainings save their state" in printed
    assert not job.busy()
    assert job.state().startswith("stopped at step ")
    assert "Stopped at step" in (job.folder / "log.txt").read_text()
