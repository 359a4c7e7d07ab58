"""Intervals and power in the report of a suite, from records of images written down by hand."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import yaml
from compare_material import base_options, suite_content, write_suite

from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.pipeline.image_records import ImageRecord, read_records, write_records
from d2sm_plugin.studies.compare import compare as cli
from d2sm_plugin.studies.compare.intervals import compare_pairs, read_measured, write_intervals
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.report import write_report
from d2sm_plugin.studies.compare.scores import columns_of
from d2sm_plugin.studies.compare.suite import read_suite

SET, KEYS = "photos_sigma25", [f"drive_{number:04d}" for number in range(20)]


def records(shift: float) -> list[ImageRecord]:
    """Two classes of which half the union is right, and ``shift`` dB and ``shift`` pixels more."""
    counts = np.array([[50, 50], [100, 100]]) + np.array([[int(shift)] * 2, [0, 0]])
    return [ImageRecord(key, {"psnr": 30.0 + number + shift}, counts) for number, key in enumerate(KEYS)]


@pytest.fixture
def suite_file(photographs, tmp_path):
    content = suite_content(photographs)
    content["test"]["datasets"]["test"]["sigma"] = [25]
    content["test"]["val"]["segmentation"] = {"config": "config.py", "checkpoint": "hrnet.pth", "labels": "labels"}
    path = write_suite(tmp_path, content, base_options(photographs))
    suite, base = read_suite(path)
    for job in make_jobs(suite, base, tmp_path / "out", path):
        job.folder.mkdir(parents=True)
        rows = {"L1": {SET: records(job.seed or 0)}, "L1 twice": {SET: records(2 + (job.seed or 0))}}
        clean = {SET: records(0), f"clean/{SET}": records(50)}
        write_records(job.records, rows.get(job.row, clean), ["road", "sky"])
        if job.train is not None:
            (job.folder / "trained.json").write_text("{}")
        job.result.write_text(json.dumps({"sets": {SET: {"psnr": 1.0, "mIoU": 50.0}}}))
    return path


def loaded(path):
    suite, base = read_suite(path)
    return suite, make_jobs(suite, base, path.parent / "out", path)


def test_records_are_read_as_they_were_written(tmp_path):
    rows = records(1 / 3)
    write_records(tmp_path / "a.csv", {SET: rows, "other": []}, ["road, wet", "sky"])
    [(name, actual)] = read_records(tmp_path / "a.csv").items()
    assert name == SET
    assert [row[:2] for row in actual] == [row[:2] for row in rows]
    assert all((a.counts == b.counts).all() for a, b in zip(actual, rows, strict=True))
    write_records(tmp_path / "b.csv", {SET: [ImageRecord("x", {"psnr": 1.5}, None)]}, [])
    assert read_records(tmp_path / "b.csv") == {SET: [("x", {"psnr": 1.5}, None)]}
    (tmp_path / "c.csv").write_text("set,image,psnr\nphotos,x,?\n")
    with pytest.raises(DataError, match=r"c.csv: expected a row of measurements for each image \(.*; remove it"):
        read_records(tmp_path / "c.csv")


def test_differences_intervals_and_shares_of_the_gap(suite_file, tmp_path):
    suite, jobs = loaded(suite_file)
    actual = write_intervals(compare_pairs(suite, read_measured(jobs), columns_of(suite)), tmp_path)
    by_metric = {column.metric: value for (_, column), value in actual.items()}
    assert by_metric["psnr"] == pytest.approx((2, 2, 2, 2, 20, 2, 2))  # the same in every seed and block
    assert by_metric["mIoU"] == pytest.approx((2, 2, 2, 2, 20, 2, 2))
    lines = {line["metric"]: line for line in csv.DictReader((tmp_path / "intervals.csv").open(newline=""))}
    assert float(lines["mIoU"]["gap_share"]) == pytest.approx(2 / 49.5)  # clean frames have 100, the seeds 50 and 51
    assert lines["psnr"]["gap_share"] == ""
    blocks = list(csv.DictReader((tmp_path / "blocks.csv").open(newline="")))
    assert [(b["first"], b["last"]) for b in blocks[:2]] == [(KEYS[0], KEYS[9]), (KEYS[10], KEYS[19])]


def test_table_has_intervals(suite_file, tmp_path):
    text = write_report(*loaded(suite_file), tmp_path / "report", grids=False)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| L1 twice | 2 | +2.000 [+2.000, +2.000] | +2.00 [+2.00, +2.00] |" in lines
    assert (tmp_path / "report" / "intervals.png").read_bytes()[:4] == b"\x89PNG"
    assert any("[95 % interval over seeds and scenes: 20 frames in 2 blocks]" in line for line in lines)


def test_groups_of_images_have_differences_of_their_own(suite_file):
    suite, jobs = loaded(suite_file)
    groups = {"first": "drive_000*", "rest": ["drive_0010", "drive_001[1-9]"], "none": "other*", "left out": None}
    suite = suite.model_copy(update={"intervals": suite.intervals.model_copy(update={"groups": groups, "block": 5})})
    for job in jobs:
        if job.row == "L1 twice":
            rows = [*records(2 + job.seed)[:10], *records(7 + job.seed)[10:]]
            write_records(job.records, {SET: rows}, ["road", "sky"])
    report = suite_file.parent / "report"
    text = write_report(suite, jobs, report, grids=False)
    lines = [
        [cell.strip() for cell in line.split("|")[1:7]] for line in text.splitlines() if line.startswith("| L1 twice")
    ]
    seeds = str(len({job.seed for job in jobs if job.row == "L1"}))
    assert lines[-2:] == [
        ["L1 twice", "first", seeds, "10", "2", "+2.000 [+2.000, +2.000]"],
        ["L1 twice", "rest", seeds, "10", "2", "+7.000 [+7.000, +7.000]"],
    ]
    assert "No image that was tested has a name like `other*` (none)." in text
    with (report / "groups.csv").open(newline="") as file:
        values = {(row["group"], row["metric"]): float(row["difference"]) for row in csv.DictReader(file)}
    seeds = np.arange(int(seeds))
    for group, shift in (("first", 2), ("rest", 7)):  # half of the union is right, and so many pixels more
        assert values[group, "psnr"] == pytest.approx(shift)
        assert values[group, "mIoU"] == pytest.approx(50 * np.mean((50 + seeds + shift) / 100 - (50 + seeds) / 100) * 2)


def test_without_groups_none_of_an_earlier_report_stay(suite_file):
    suite, jobs = loaded(suite_file)
    report = suite_file.parent / "report"
    report.mkdir()
    (report / "groups.csv").write_text("of an earlier report")
    assert "groups of images" not in write_report(suite, jobs, report, grids=False)
    assert not (report / "groups.csv").exists()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"": "a*"}, r"\.: expected"),
        ({"a|b": "a*"}, r"\.a\|b: expected"),
        ({"a\nb": "a*"}, r"\.a b: expected"),
        ({"a": ""}, r"\.a: expected a text that is not empty or a list, got ''"),
        ({"a": 1}, r"\.a: expected a text or a list, got 1"),
        ({"a": []}, r"\.a: expected a text or at least 1 values, got \[\]"),
        ({"a": ["x", ""]}, r"\.a\.1: expected a text that is not empty, got ''"),
        ({"a": ["x", 1, 2]}, r"\.a\.1: expected a text, got 1 \(and "),
    ],
)
def test_groups_without_a_name_or_pattern_are_refused(suite_file, groups, message):
    content = yaml.safe_load(suite_file.read_text())
    suite_file.write_text(yaml.safe_dump(content | {"intervals": {"groups": groups}}))
    with pytest.raises(OptionError, match=rf"intervals\.groups{message}") as raised:
        read_suite(suite_file)
    assert "\n" not in str(raised.value)


def test_groups_say_what_they_lack(suite_file):
    suite, jobs = loaded(suite_file)
    groups = {"part": ["drive_0003", "zzz*"], "typo": "A_*", "bare": "drive_001*"}
    suite = suite.model_copy(update={"intervals": suite.intervals.model_copy(update={"groups": groups})})
    for job in jobs:
        if job.seed is not None:
            values = [row.values if row.key < "drive_0010" else {"psnr": math.inf} for row in records(job.seed)]
            rows = [ImageRecord(key, of_image, None) for key, of_image in zip(KEYS, values, strict=True)]
            write_records(job.records, {SET: rows}, [])
    report = suite_file.parent / "report"
    text = write_report(suite, jobs, report, grids=False)
    assert "No image that was tested has a name like `zzz*` (part), `A_*` (typo)." in text
    assert "Without a figure of each of their images: bare." in text
    with (report / "groups.csv").open(newline="") as file:
        assert {(row["group"], row["pattern"]) for row in csv.DictReader(file)} == {("part", "drive_0003 | zzz*")}
    suite = suite.model_copy(update={"intervals": suite.intervals.model_copy(update={"groups": {"typo": "A_*"}})})
    assert "has a name like `A_*` (typo)." in write_report(suite, jobs, report, grids=False)


def test_power_is_told_by_the_command(suite_file, capsys):
    assert cli.main([str(suite_file), "--out", str(suite_file.parent / "out"), "--power"]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "| | frames | blocks | 1 seed | 2 seeds | 3 seeds | 5 seeds | 10 seeds |" in printed
    assert "| | 80 | 8 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 |" in printed


def test_power_of_runs_that_are_not_there_is_an_error(suite_file, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: --power: no finished runs of a variant and its baseline"):
        cli.main([str(suite_file), "--out", str(tmp_path / "nowhere"), "--power"])


def test_runs_on_other_frames_are_refused(suite_file):
    suite, jobs = loaded(suite_file)
    job = next(job for job in jobs if job.row == "L1")
    write_records(job.records, {SET: records(0)[1:]}, ["road", "sky"])
    with pytest.raises(DataError, match="'L1 twice' and 'L1': their runs were tested on other frames"):
        compare_pairs(suite, read_measured(jobs), columns_of(suite))
