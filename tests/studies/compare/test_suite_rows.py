"""Rows of a suite beyond variants of one option file: option files and baselines of their own, tested, published."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from compare_material import base_options, suite_content, write_suite

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import OptionError
from d2sm_plugin.studies.compare.child import main as run
from d2sm_plugin.studies.compare.compare import choose
from d2sm_plugin.studies.compare.compare import main as compare
from d2sm_plugin.studies.compare.intervals import compare_pairs, read_measured
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.report import write_report
from d2sm_plugin.studies.compare.scores import Scores
from d2sm_plugin.studies.compare.suite import read_suite
from d2sm_plugin.studies.compare.tables import markdown, write_tables

ROWS = {
    "L1": {},
    "wide": {"base": "other/wide.yml", "baseline": "wide", "val": {"tile": 64, "tile_overlap": 8}},
    "wide L2": {"like": "wide", "options": {"train": {"pixel_opt": {"type": "MSELoss"}}}},
}
PUBLISHED = {
    "source": "Somebody, 2020",
    "columns": ["PSNR", "SSIM"],
    "rows": {"L1": [30.10, None], "wide": [31.25, 0.9], "elsewhere": [20.0, 0.5]},
}


@pytest.fixture
def write(photographs, tmp_path):
    """Write a suite of FFDNets of two widths, the wider in an option file of a folder below."""

    def write_one(**changes) -> Path:
        base = base_options(photographs)
        (tmp_path / "other").mkdir(exist_ok=True)
        wide = {**base, "network_g": {**base["network_g"], "num_feat": 16}, "train": dict(base["train"])}
        (tmp_path / "other" / "wide.yml").write_text(yaml.safe_dump(wide), encoding="utf-8")
        content = suite_content(photographs, **{"seeds": [0], "variants": ROWS, **changes})
        return write_suite(tmp_path, content, base)

    return write_one


def jobs_of(path):
    suite, base = read_suite(path)
    return suite, make_jobs(suite, base, path.parent / "out", path)


def finish(jobs, psnr):
    """Write down the results of runs by hand: row -> PSNR at sigma 25."""
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "trained.json").write_text("{}")
        job.result.write_text(json.dumps({"sets": {"photos_sigma25": {"psnr": psnr.get(job.row, 15.0)}}}))


def test_a_variant_may_start_from_an_option_file_of_its_own(write):
    path = write(options={"train": {"total_iter": 7}})
    _, jobs = jobs_of(path)
    trains = {job.row: job.train for job in jobs if job.train is not None}
    assert {row: train["network_g"]["num_feat"] for row, train in trains.items()} == {
        "L1": 8,
        "wide": 16,
        "wide L2": 16,
    }
    assert {train["train"]["total_iter"] for train in trains.values()} == {7}
    assert trains["wide L2"]["train"]["pixel_opt"]["type"] == "MSELoss"
    tiles = {job.row: job.test["val"].get("tile") for job in jobs if job.train is not None}
    assert tiles == {"L1": None, "wide": 64, "wide L2": 64}


def test_file_of_a_row_that_is_not_there(write):
    with pytest.raises(OptionError, match=r"suite.yml: tested.A.base: .*nowhere.yml: no such option file"):
        read_suite(write(tested={"A": {"base": "nowhere.yml"}}))


def test_rows_without_training_may_be_chosen_by_name(write):
    suite, jobs = jobs_of(write(tested={"old": {}}))
    assert {job.row for job in choose(jobs, suite, ["old"], None) if job.train is not None} == set()
    assert "old" in {job.row for job in choose(jobs, suite, ["L1"], None)}
    with pytest.raises(OptionError, match=r"--only: no row 'odl'; did you mean 'old'"):
        choose(jobs, suite, ["odl"], None)


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({**ROWS, "wide": {"baseline": "L3"}}, r"variants.wide.baseline: no variant 'L3'; known: L1"),
        ({"L1": {}, "A": {}, "B": {"baseline": "A"}}, r"variants.B.baseline: 'A' has a baseline of its own"),
    ],
)
def test_baselines_that_cannot_be(write, variants, words):
    with pytest.raises(OptionError, match=words):
        read_suite(write(variants=variants))


def test_ranks_and_differences_are_those_beside_the_baseline(write):
    path = write(tested={"old": {}}, columns=["psnr"])
    suite, jobs = jobs_of(path)
    finish(jobs, {"L1": 30.0, "wide": 40.0, "wide L2": 41.0, "old": 30.5})
    scores = Scores(suite, jobs)
    column = scores.columns[0]
    assert scores.ranks(column) == {"old": 1, "L1": 2, "wide L2": 1, "wide": 2}
    assert scores.difference("wide L2", column).mean == 1
    assert scores.difference("wide", column).mean == 0
    assert scores.difference("old", column).mean == 0.5
    text = markdown(scores, {})
    assert "Difference from wide, of runs with equal seeds" in text
    assert "Difference from L1," not in text  # it stands alone
    assert [row for row in scores.rows() if row in ("old", "L1", "wide", "wide L2")] == ["old", *ROWS]
    assert compare_pairs(suite, read_measured(jobs), scores.columns) == []  # no records of single images
    write_tables(scores, {}, path.parent)
    with (path.parent / "table_mean.csv").open(newline="", encoding="utf-8") as file:
        baselines = {line["variant"]: line["baseline"] for line in csv.DictReader(file)}
    assert baselines == {"noisy": "", "old": "", "L1": "", "wide": "", "wide L2": "wide"}


def test_published_figures_stand_beside_ours(write):
    path = write(published=PUBLISHED, columns=["psnr"])
    suite, jobs = jobs_of(path)
    finish(jobs, {"L1": 30.0, "wide": 40.0})
    text = re.sub(" +", " ", markdown(Scores(suite, jobs), {}))
    assert "| *published* PSNR | *published* SSIM |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| L1 |")]
    assert "30.000" in line and line.endswith("| 30.10 | - |")
    assert "| 31.25 | 0.9 |" in text
    assert "| elsewhere | | | | 20.00 | 0.5 |" in text
    assert "*published*: figures of Somebody, 2020. None of them was measured here." in text


def test_published_figures_must_fill_the_columns(write):
    with pytest.raises(OptionError, match=r"published: rows.L1: 1 figures for 2 columns"):
        read_suite(write(published={**PUBLISHED, "rows": {"L1": [1.0]}}))


def test_networks_are_tested_as_they_are(write, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save({"params": FFDNet(num_feat=8, num_layers=3).state_dict()}, tmp_path / "published.pth")
    tested = {
        "published": {"options": {"path": {"pretrain_network_g": str(tmp_path / "published.pth")}}},
        "as it comes": {"options": {"network_g": {"type": "BicubicUpsampling", "scale": 1}}},
    }
    path = write(tested=tested, variants={"L1": {}}, untrained={"input": "noisy"})
    suite, jobs = jobs_of(path)
    for job in (jobs := [job for job in jobs if job.train is None]):
        job.write_options()
        assert run([str(job.folder), job.kind, job.test_name]) == 0
    assert [job.state() for job in jobs] == ["finished"] * 3
    scores = {job.row: job.scores() for job in jobs}
    assert scores["as it comes"]["photos_sigma50"] == pytest.approx(scores["input and clean"]["photos_sigma50"])
    write_report(suite, jobs, tmp_path / "report")
    assert re.search(r"\| published +\| +\| \**[0-9]", (tmp_path / "report" / "table.md").read_text())
    assert compare([str(path), "--out", str(tmp_path / "out"), "--dry-run", "--force_yml", "tested:published=~"]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[-3:]] == [
        *("input and clean", "as it comes", "L1")
    ]


def test_pictures_of_pairs_whose_data_set_has_no_keys(write, photographs, tmp_path):
    pairs = {"type": "PairedImageDataset", "dataroot_gt": str(photographs), "dataroot_lq": str(photographs)}
    test = {"datasets": {"test": {**pairs, "name": "pairs", "io_backend": {"type": "disk"}}}, "val": {"metrics": {}}}
    tested = {"as it comes": {"options": {"network_g": {"type": "BicubicUpsampling", "scale": 1}}}}
    path = write(tested=tested, variants={"L1": {}}, test=test, untrained=dict.fromkeys(("input", "clean")))
    suite, jobs = jobs_of(path)
    (job,) = (job for job in jobs if job.row == "as it comes")
    job.write_options()
    assert run([str(job.folder), job.kind, job.test_name]) == 0
    write_report(suite, jobs, tmp_path / "report")
    assert len(list((tmp_path / "report").glob("grid_*_pairs.png"))) == 2


def test_mistake_in_a_tested_row_names_it(write):
    path = write(tested={"old": {"options": {"network_g": {"num_feats": 3}}}})
    with pytest.raises(OptionError, match=r"suite.yml: tested.old: network_g"):
        jobs_of(path)


def test_shipped_suite_by_its_bare_name():
    assert read_suite("table3_small")[0].name == "table3_small"
