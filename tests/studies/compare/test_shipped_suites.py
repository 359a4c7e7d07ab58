"""Every suite that ships is valid; every variant of the small ones is started, on tiny data."""

from __future__ import annotations

import re
import sys
from copy import deepcopy

import pytest
import yaml
from compare_material import ROOT

from d2sm_plugin.data.prepare.prepare_data import main as prepare_data
from d2sm_plugin.demo.segmentor import DEMO_CONFIG
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.studies.compare.fingerprint import essence, fingerprint
from d2sm_plugin.studies.compare.jobs import make_jobs, training_options
from d2sm_plugin.studies.compare.suite import read_suite

sys.path.append(str(ROOT / "tests" / "options"))
from tiny_options import TinyData, tiny

SUITES = sorted((ROOT / "options" / "suites").glob("*.yml"))
JUDGE = {"config": DEMO_CONFIG, "checkpoint": f"package:{DEMO_CONFIG}", "classes": "cityscapes"}


def small_variants() -> dict[str, dict]:
    """Options of the variants of all small suites by name, equal ones once."""
    collected = {}
    for file in SUITES:
        if file.stem.endswith("_camvid"):
            suite, base = read_suite(file)
            options = [(variant, training_options(suite, base, variant)) for variant in suite.variants]
            collected |= {fingerprint(essence(train)): (f"{file.stem}: {variant}", train) for variant, train in options}
    return dict(collected.values())


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """LMDBs of two generated scenes and their labels."""
    folder = tmp_path_factory.mktemp("street")
    prepare_data(["demo", "--out", str(folder), "--num-train", "2", "--num-val", "1", "--size", "128", "192"])
    return folder


@pytest.mark.parametrize("file", SUITES, ids=lambda file: file.stem)
def test_suite_is_valid(file, tmp_path):
    suite, base = read_suite(file)
    jobs = make_jobs(suite, base, tmp_path, file)
    assert {job.row for job in jobs} >= set(suite.variants)
    assert suite.title
    assert {job.test_name for job in jobs if job.kind == "run" and job.train is not None} != set()
    scale = file.stem.split("_")[1]
    assert all(scale in block["dataroot_gt"] for block in suite.test.datasets.values())


@pytest.mark.parametrize("scale", ["camvid", "cityscapes"])
def test_suites_of_one_scale_share_runs(scale, tmp_path):
    runs = {
        file.stem.split("_")[0]: {
            job.row: job.name.split("-")[1] for job in make_jobs(*read_suite(file), tmp_path, file)
        }
        for file in SUITES
        if file.stem.endswith(scale)
    }
    short = {name: runs.pop(name) for name in ("choices", "intervals") if name in runs}  # trainings of their own
    assert len({rows["L1"] for rows in short.values()}) == bool(short)
    assert len({rows["L1"] for name, rows in runs.items() if name != "scratch"}) == 1
    assert len({rows["input and clean"] for rows in runs.values()}) == 1
    assert len({runs[name]["L1 + D2SM"] for name in ("table1", "table4", "internal")}) == 1


@pytest.mark.parametrize("options", [pytest.param(value, id=name) for name, value in small_variants().items()])
def test_variant_of_a_small_suite_starts(options, photographs, street, tmp_path):
    data = TinyData(photographs, tmp_path)
    options = deepcopy(options)
    labelled = "dataroot_label" in options["datasets"]["train"]
    options = tiny(options, data, tmp_path, {"NoisyImageDataset": data.noisy_images})
    options["train"] |= {"total_iter": 1, "warmup_iter": -1}
    d2sm = options["train"].get("d2sm_opt")
    if d2sm is not None and d2sm.get("patches") is None and d2sm.get("queue") is None:
        options["datasets"]["train"]["batch_size_per_gpu"] = 3  # whole crops of one batch: statistics need three
    if labelled:
        pytest.importorskip("mmseg")
        roots = {"gt": street / "train_images.lmdb", "label": street / "train_labels.lmdb"}
        options["datasets"]["train"] |= {f"dataroot_{kind}": str(root) for kind, root in roots.items()}
        options["train"]["segmentation_opt"] |= JUDGE
    if "input_size" in options.get("network_d", {}):  # the discriminator takes crops of that size alone
        size = options["network_d"]["input_size"]
        options["datasets"]["train"] |= {"dataroot_gt": str(street / "train_images.lmdb"), "gt_size": size}
    if "lpips_opt" in options["train"]:
        options["train"]["lpips_opt"]["trunk"] = None
    text = yaml.safe_dump({**options, "name": "tiny"}, sort_keys=False)
    for package in set(re.findall(r"package:([\w-]+)", text)):
        pytest.importorskip(package.replace("-", "_"), reason=f"needs pip install {package}")
    path = tmp_path / "train.yml"
    path.write_text(text, encoding="utf-8")
    assert training.main(["-opt", str(path)]) == 0
    assert (tmp_path / "experiments" / "tiny" / "models" / "net_g_1.safetensors").is_file()
