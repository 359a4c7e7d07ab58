from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from compare_material import ROOT, base_options, suite_content, write_suite

from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.options.merge import differences, merge
from d2sm_plugin.safe_yaml import read_yaml
from d2sm_plugin.studies.compare import runner
from d2sm_plugin.studies.compare.child import STOPPED
from d2sm_plugin.studies.compare.compare import main as compare
from d2sm_plugin.studies.compare.fingerprint import content_of, essence, fingerprint
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.run_options import training_options
from d2sm_plugin.studies.compare.suite import read_suite


@pytest.fixture
def write(photographs, tmp_path):
    def write_one(**changes):
        return write_suite(tmp_path, suite_content(photographs, **changes), base_options(photographs))

    return write_one


def read_jobs(path, *force):
    suite, base = read_suite(path, force)
    return make_jobs(suite, base, path.parent / "out", path)


def test_merging_goes_block_by_block():
    base = {"a": {"b": 1, "c": {"d": 2}}, "queue": {"type": "Q", "size": 3}, "list": [1, 2]}
    over = {"a": {"c": {"d": 5, "e": 6}}, "queue": None, "list": [3], "new": {"f": 7}}
    assert merge(base, over) == {"a": {"b": 1, "c": {"d": 5, "e": 6}}, "list": [3], "new": {"f": 7}}
    assert base["a"]["c"] == {"d": 2}


def test_a_block_of_another_type_replaces_the_old_one():
    base = {"scheduler": {"type": "CosineAnnealingLR", "T_max": 3}}
    assert merge(base, {"scheduler": {"type": "MultiStepLR", "milestones": [2]}}) == {
        "scheduler": {"type": "MultiStepLR", "milestones": [2]}
    }
    assert merge(base, {"scheduler": {"T_max": 4}}) == {"scheduler": {"type": "CosineAnnealingLR", "T_max": 4}}
    assert merge({"weights": "imagenet"}, {"weights": None}) == {"weights": None}  # a value, not a block


def test_differences_name_the_path():
    before = {"train": {"lr": 1, "queue": {"size": 3}}}
    after = {"train": {"lr": 2, "ssim_opt": {"type": "S"}}}
    assert list(differences(before, after)) == [
        "train.lr was 1, is now 2",
        "train.queue is gone (was {'size': 3})",
        "train.ssim_opt is new ({'type': 'S'})",
    ]


def test_jobs_of_a_suite(write):
    variants = {"A": {}, "B": {"seeds": [1, 5]}, "C": {"like": "B", "options": {"train": {"ema_decay": 0.9}}}}
    jobs = read_jobs(write(variants=variants, baseline="A"))
    pairs = [(job.row, job.seed) for job in jobs if job.seed is not None]
    assert pairs == [("A", 0), ("C", 0), ("A", 1), ("B", 1), ("C", 1), ("B", 5)]
    assert [job.row for job in jobs if job.seed is None] == ["input and clean"]  # nothing to start from
    assert {job.train["manual_seed"] for job in jobs if job.row == "B"} == {1, 5}


def test_like_and_force(write):
    variants = {
        "A": {},
        "B": {"options": {"train": {"ssim_opt": {"type": "L1Loss"}}}},
        "C": {"like": "B", "options": {"train": {"ssim_opt": {"loss_weight": 3.0}}}},
    }
    suite, base = read_suite(write(variants=variants, baseline="A"), ["options:train:total_iter=9"])
    train = training_options(suite, base, "C", seed=4)["train"]
    assert train["ssim_opt"] == {"type": "L1Loss", "loss_weight": 3.0}
    assert train["total_iter"] == 9
    assert train["pixel_opt"] == {"type": "L1Loss"}


def test_a_variant_is_left_out_by_force_but_not_by_an_empty_block(write):
    path = write(variants={"A": None, "B": {"options": {"train": {"total_iter": 3}}}}, baseline="A")
    assert list(read_suite(path)[0].variants) == ["A", "B"]
    assert list(read_suite(path, ["variants:B=~"])[0].variants) == ["A"]


def test_extends(write, photographs, tmp_path):
    write(seeds=[7])
    path = tmp_path / "deeper" / "own.yml"
    path.parent.mkdir()
    path.write_text("extends: ../suite.yml\nname: own\nvariants:\n  L1 twice: ~\n", encoding="utf-8")
    suite, base = read_suite(path)
    assert (suite.name, list(suite.variants), suite.seeds) == ("own", ["L1"], [7])
    assert base["name"] == "tiny"
    path.write_text("extends: own.yml\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"own\.yml: extends: it leads back to"):
        read_suite(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": [1]}, r"suite\.yml: sed: unknown key; did you mean 'seeds'"),
        ({"seeds": []}, r"suite\.yml: seeds: expected at least 1 values"),
        ({"seeds": [0, 0]}, r"suite\.yml: seeds of 'L1': one is given twice"),
        ({"seeds": ["one"]}, r"suite\.yml: seeds\.0: expected an integer, got 'one'"),
        ({"baseline": "L2"}, r"suite\.yml: baseline: no variant 'L2'; known: L1"),
        ({"variants": {"L1": {"option": {}}}}, r"variants\.L1\.option: unknown key; did you mean 'options'"),
        ({"variants": {"L1": {"like": "L3"}}}, r"variants\.L1\.like: no variant 'L3'"),
        ({"variants": {"L1": {"like": "L1"}}}, r"variants\.L1\.like: it leads back to 'L1'"),
        ({"variants": {"L1": {"options": {"trian": {}}}}}, r"variants\.L1: trian: unknown key; did you mean 'train'"),
        (
            {"variants": {"L1": {"options": {"train": {"pixel_opt": {"weight": 1}}}}}},
            r"variants\.L1: train\.pixel_opt\.weight: L1Loss takes no such argument",
        ),
        ({"variants": {"L1": {}, "noisy": {}}}, r"variants: the name 'noisy' is that of an untrained row too"),
        ({"test": {"datasets": {}}}, r"suite\.yml: test\.datasets: "),
        ({"test": {"datasets": {"test": {"type": "Noisy"}}}}, r"suite\.yml: test: datasets\.test\.type: .*'Noisy'"),
        ({"grid": {"crop": [1, 2]}}, r"grid\.crop: "),
        ({"cost": {"steps": 3}}, r"suite\.yml: cost: drop: 3 of 3 steps leave none"),
        ({"base": "nowhere.yml"}, r"nowhere\.yml: no such option file"),
        ({"name": ".."}, r"suite\.yml: name: expected a name for a file or folder"),
        ({"columns": ["pnsr"]}, r"suite\.yml: columns: no figure 'pnsr' is measured; did you mean 'psnr'"),
        (
            {"variants": {n: {"options": {"network_g": {"num_feat": 0}}} for n in ("L1", "A", "B")}},
            r"variants\.L1: network_g\.num_feat: .* at least 1, got 0 .*mistakes in test, variants\.A, variants\.B\)$",
        ),
        (
            {"options": {"train": {"scheduler": {"type": "CosineAnnealingRestartLR", "periods": [1]}}}},
            r"variants\.L1: train\.scheduler: CosineAnnealingRestartLR ends before train\.total_iter",
        ),
    ],
)
def test_mistakes_name_file_and_key(write, changes, message):
    with pytest.raises(OptionError, match=message):
        read_jobs(write(**changes))


def test_a_dry_run_names_files_that_are_not_there(write, tmp_path, capsys):
    weights = {"path": {"pretrain_network_g": str(tmp_path / "w.pth")}}
    extractor = {"type": "TimmFeatures", "weights": "nowhere/lite0.pth"}
    objective = {"train": {"d2sm_opt": {"type": "D2SMLoss", "extractor": extractor, "queue": 8}}}
    path = write(options=weights, variants={"L1": {}, "D2SM": {"options": objective}})
    arguments = [str(path), "--out", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(DataError, match=r"variants\.L1: path\.pretrain_network_g: .*w\.pth: no such.*and 2 more\)"):
        compare(arguments)
    assert "not started" in capsys.readouterr().out
    (tmp_path / "w.pth").write_bytes(b"weights")
    with pytest.raises(DataError, match=r"variants\.D2SM: train\.d2sm_opt\.extractor\.weights: nowhere/lite0\.pth: "):
        compare(arguments)
    assert compare([str(write()), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()


def test_samples_are_counted_over_all_processes(write):
    alone = {"type": "D2SMLoss", "extractor": {"type": "TimmFeatures", "weights": None}}
    batch = {"datasets": {"train": {"batch_size_per_gpu": 1}}}
    variants = {"L1": {}, "D2SM": {"options": {"train": {"d2sm_opt": alone}, **batch}}}
    with pytest.raises(OptionError, match=r"variants\.D2SM: train\.d2sm_opt: a batch has 2 samples"):
        read_jobs(write(variants=variants, processes=2))
    assert read_jobs(write(variants=variants, processes=3))


def test_fingerprint_is_that_of_what_matters(photographs, tmp_path):
    base = base_options(photographs)
    mark = fingerprint(essence(base))
    loud = merge(base, {"name": "other", "manual_seed": 5, "logger": {"print_freq": 7}, "val": {"pbar": False}})
    roots = {"path": {"experiments_root": str(tmp_path)}, "train": {"ema_decay": 0.0}}  # a default, written out
    workers = {"datasets": {"train": {"num_worker_per_gpu": 3}}}
    assert fingerprint(essence(merge(merge(loud, roots), workers))) == mark
    for other in ({"train": {"total_iter": 5}}, {"network_g": {"num_feat": 16}}, {"datasets": {"val": {"sigma": 50}}}):
        assert fingerprint(essence(merge(base, other))) != mark


def test_processes_count_by_their_joint_batch(photographs):
    base = base_options(photographs)
    joint = merge(base, {"datasets": {"train": {"batch_size_per_gpu": 6}}})
    assert fingerprint(essence(base, processes=3)) == fingerprint(essence(joint))
    assert fingerprint(essence(base, processes=2)) != fingerprint(essence(base))


def test_weight_files_count_by_content(photographs, tmp_path):
    marks = []
    for name, content in (("a.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"two")):
        (tmp_path / name).write_bytes(content)
        start = {"path": {"pretrain_network_g": str(tmp_path / name)}}
        marks.append(fingerprint(essence(merge(base_options(photographs), start))))
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize(
    "where",
    [
        {"train": {"seg_opt": {"type": "SegmentationLoss", "checkpoint": "FILE"}}},
        {"train": {"d2sm_opt": {"type": "D2SMLoss", "extractor": {"weights": "FILE"}}}},
        {"network_d": {"type": "FFDNet", "table": "FILE"}},
        {"val": {"segmentation": {"config": "FILE", "checkpoint": "a.pth", "labels": "labels"}}},
    ],
)
def test_files_of_objectives_networks_and_judges_count_by_content(photographs, tmp_path, where):
    marks = []
    for name, content in (("a.py", b"one"), ("b.py", b"one"), ("c.py", b"two")):
        (tmp_path / name).write_bytes(content)
        named = json.loads(json.dumps(where).replace("FILE", str(tmp_path / name)))
        marks.append(fingerprint(essence(merge(base_options(photographs), named))))
    assert marks[0] == marks[1] != marks[2]


def test_data_count_by_path(photographs):
    assert essence(base_options(photographs))["datasets"]["train"]["dataroot_gt"] == str(photographs)


@pytest.mark.parametrize("text", ["https://example.org/a.pth", "imagenet", "~nobody/x", "x" * 5000, "a\0b"])
def test_what_is_no_file_counts_as_it_is(text):
    assert content_of(text) == text


def test_the_start_row_needs_weights_to_start_from(write, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    jobs = read_jobs(write(options={"path": {"pretrain_network_g": str(tmp_path / "w.pth")}}))
    start = next(job for job in jobs if job.row == "start")
    assert start.test["path"]["pretrain_network_g"] == str(tmp_path / "w.pth")
    assert start.state() == "to test"


def test_every_suite_of_the_paper_has_both_scales():
    names = {file.stem for file in (ROOT / "options" / "suites").glob("*.yml")}
    kinds = {"table1", "table4", "fig9", "internal"}
    assert names >= {f"{kind}_{scale}" for kind in kinds for scale in ("camvid", "cityscapes")}


def test_equal_variants_share_their_runs_and_finished_ones_come_first(write, tmp_path):
    path = write(variants={"A": {}, "twin": {}}, baseline="A", seeds=[0])
    first, second = (job for job in read_jobs(path) if job.seed == 0)
    assert first.folder == second.folder
    mark = fingerprint(first.definition)
    for name in (f"a-{mark}-s0", f"z-{mark}-s0"):  # two calls began it at one time
        (tmp_path / "out" / "runs" / name).mkdir(parents=True)
    (tmp_path / "out" / "runs" / f"z-{mark}-s0" / "trained.json").write_text("{}")
    assert [job.name for job in read_jobs(path) if job.seed == 0] == [f"z-{mark}-s0"] * 2


def test_a_start_from_a_url_keeps_it(write):
    url = "https://example.org/weights/ffdnet.pth"
    [job] = [job for job in read_jobs(write(options={"path": {"pretrain_network_g": url}})) if job.row == "start"]
    job.write_options()
    assert read_yaml(job.folder / f"{job.test_name}.yml")["path"]["pretrain_network_g"] == url


def test_a_state_to_continue_from_is_part_of_a_definition(write, tmp_path):
    plain, state = read_jobs(write())[-1].definition, tmp_path / "1000.state"
    state.write_bytes(b"state")
    continued = read_jobs(write(options={"path": {"resume_state": str(state)}}))[-1].definition
    assert continued["path"]["resume_state"].startswith("sha256:")
    assert {key: value for key, value in continued.items() if key != "path"} == plain


def test_option_files_are_written_once(write):
    job = read_jobs(write())[-1]
    job.write_options()
    before = {file: file.stat().st_mtime_ns for file in job.folder.iterdir()}
    job.write_options()
    assert {file: file.stat().st_mtime_ns for file in job.folder.iterdir()} == before
    assert sorted(file.name for file in before) == sorted(["train.yml", f"{job.test_name}.yml"])


def test_an_error_in_the_report_lets_trainings_save_their_state():
    jobs = [SimpleNamespace(row=row, seed=0, processes=1, finished=lambda: False, busy=lambda: False) for row in "AB"]
    sleeps = {"A": 0, "B": 60}
    children = []

    def start_sleeping(job, slot, slots):
        children.append(subprocess.Popen([sys.executable, "-S", "-c", f"import time; time.sleep({sleeps[job.row]})"]))
        return children[-1]

    def fail():
        raise DataError("the disk is full")

    with pytest.raises(DataError, match="the disk is full"):
        runner.Runner(jobs, 2, fail, start_sleeping).run()
    assert children[1].wait(timeout=30) == -signal.SIGTERM


def test_a_child_that_was_stopped_stops_the_others():
    jobs = [SimpleNamespace(row=row, seed=0, processes=1, finished=lambda: False, busy=lambda: False) for row in "ABC"]
    codes = {"A": f"raise SystemExit({STOPPED})", "B": "import time; time.sleep(60)", "C": "never"}
    children = []

    def start_one(job, slot, slots):
        children.append(subprocess.Popen([sys.executable, "-S", "-c", codes[job.row]]))
        return children[-1]

    outcome = runner.Runner(jobs, 2, lambda: None, start_one).run()
    assert (outcome.stopped, outcome.failed) == (True, {})
    assert [child.wait(timeout=30) for child in children] == [STOPPED, -signal.SIGTERM]
