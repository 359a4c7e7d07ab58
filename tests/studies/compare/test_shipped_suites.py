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
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.run_options import training_options
from d2sm_plugin.studies.compare.suite import read_suite

sys.path.append(str(ROOT / "tests" / "options"))
from tiny_options import TinyData, tiny

SUITES = sorted((ROOT / "options" / "suites").glob("*.yml"))
#: What a suite's test sets are called where it is not the second part of the suite's name.
SMALL = {"table1_small": "camvid", "table2_small": "helen29", "table3_small": "sots_indoor"}
PAPER_ROWS = {
    "table1": ["L1", "L1 + SSIM", "L1 + cross entropy", "CBDNet", "CBDNet + D2SM", "SADNet", "SADNet + D2SM"],
    "table2": ["bicubic", "SRResNet", "URDGN", "RDN", "PFSR", "FSRNet", "FSRGAN", "DICNet", "DICGAN", "DICNet + D2SM"],
    "table3": ["DCP", "MSCNN", "DcGAN", "GFN", "PFFNet", "GDN", "DuRN", "MSBDN-DFF", "MSBDN-DFF + D2SM"],
}
JUDGE = {"config": DEMO_CONFIG, "checkpoint": f"package:{DEMO_CONFIG}", "classes": "cityscapes"}


def started_variants() -> dict[str, dict]:
    """Options of variants by name, equal ones once: those of the small suites, and of Tables 2 and 3 at paper scale.

    Rows of table1_small and table1_cityscapes that are not in table1_camvid are option files, which are started too.
    """
    collected = {}
    for file in SUITES:
        if file.stem.endswith("_camvid") or file.stem.startswith(("table2", "table3")):
            suite, base = read_suite(file)
            options = [(variant, training_options(suite, base, variant)) for variant in suite.variants]
            collected |= {fingerprint(essence(train)): (f"{file.stem}: {variant}", train) for variant, train in options}
    return dict(collected.values())


def started() -> list:
    return [
        pytest.param(options, id=name, marks=[] if "camvid" in name or "small" in name else pytest.mark.slow)
        for name, options in started_variants().items()
    ]


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
    scale = SMALL.get(file.stem, file.stem.split("_")[1])
    assert all(scale in block["dataroot_gt"] for block in suite.test.datasets.values())


@pytest.mark.parametrize("name", [f.stem for f in SUITES if f.stem[:6] in PAPER_ROWS and f.stem != "table1_camvid"])
def test_every_row_of_the_paper_is_there_with_its_figures(name):
    suite, _ = read_suite(name)
    rows = {*suite.tested, *suite.variants}
    assert set(PAPER_ROWS[name[:6]]) <= set(suite.published.rows) <= rows


def test_published_figures_are_the_papers():
    """Against the text of the paper, as far as it is at hand."""
    paper = ROOT.parent / "shared" / "paper" / "d2sm-paper.txt"
    if not paper.is_file():
        pytest.skip(f"the paper's text is not at {paper}")
    text = paper.read_text(encoding="utf-8")
    numbers = re.findall(r"\d+\.\d+", text)
    known = {float(number) for number in numbers} | {round(100 * float(number), 4) for number in numbers}
    for name in ("table1_cityscapes", "table1_small", "table2_celeba", "table3_ihaze", "table4_cityscapes"):
        figures = [value for row in read_suite(name)[0].published.rows.values() for value in row if value is not None]
        assert set(figures) <= known


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


@pytest.mark.parametrize("options", started())
def test_variant_of_a_suite_starts(options, photographs, street, tmp_path):
    data = TinyData(photographs, tmp_path)
    options = deepcopy(options)
    labelled = "dataroot_label" in options["datasets"]["train"]
    shrinkers = {
        "NoisyImageDataset": data.noisy_images,
        "PairedImageDataset": data.paired_images,
        "FaceDataset": data.faces,
    }
    options = tiny(options, data, tmp_path, shrinkers)
    steps = max(block.get("every", 1) for key, block in options["train"].items() if key.endswith("_opt") and block)
    options["train"] |= {"total_iter": steps, "warmup_iter": -1}
    options["val"] |= {"tile": None, "tile_overlap": None}
    d2sm = options["train"].get("d2sm_opt")
    if d2sm is not None and d2sm.get("patches") is None and d2sm.get("queue") is None:
        options["datasets"]["train"]["batch_size_per_gpu"] = 3  # whole crops of one batch: statistics need three
    if labelled:
        pytest.importorskip("mmseg")
        roots = {"gt": street / "train_images.lmdb", "label": street / "train_labels.lmdb"}
        options["datasets"]["train"] |= {f"dataroot_{kind}": str(root) for kind, root in roots.items()}
        options["train"]["segmentation_opt"] |= JUDGE
    if options["datasets"]["train"]["type"] == "FaceDataset":
        options["datasets"]["train"].pop("size", None)  # drawn faces have it
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
    assert (tmp_path / "experiments" / "tiny" / "models" / f"net_g_{steps}.safetensors").is_file()
