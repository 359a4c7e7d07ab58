"""The examples of docs/extend.md run, each in a training of its own, and mistakes in their options are told."""

from __future__ import annotations

import csv
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError
from d2sm_plugin.inference import inference
from d2sm_plugin.options.merge import merge
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.weights import read_weights

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
TITLES = (
    "A network",
    "An objective",
    "A data set",
    "A degradation",
    "A metric",
    "Keys of `train:` for a model of your own",
    "A metric of pyiqa",
    "A logger",
)
LONGEST = 15  # lines of an example, without its blank ones


def example(title):
    """Name of the file, its code, and what the option file says."""
    section = re.search(rf"\n## {re.escape(title)}\n(.*?)(?=\n## |\Z)", PAGE, flags=re.S).group(1)
    code, options = (re.search(rf"```{kind}\n(.*?)```", section, flags=re.S).group(1) for kind in ("python", "yaml"))
    return re.match(r"# (\w+)\.py\n", code).group(1), code, yaml.safe_load(options)


@pytest.fixture
def options(photographs, tmp_path):
    data = {"type": "NoisyImageDataset", "dataroot_gt": str(photographs), "sigma": 25}
    return {
        "name": "own",
        "num_gpu": 0,
        "datasets": {
            "train": data | {"gt_size": 32, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0},
            "val": data | {"num_images": 2},
        },
        "network_g": {"type": "CBDNet", "num_feat": 8},
        "path": {"experiments_root": str(tmp_path / "experiments")},
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
        "val": {"save_img": False, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
        "logger": {"use_tb_logger": False, "print_freq": 1},
    }


@pytest.fixture(autouse=True)
def pyiqa(monkeypatch):
    """A module with the one function of pyiqa that the example calls, as that package is none of ours."""

    def create_metric(name: str):
        def metric(target, ref=None):
            assert target.shape == ref.shape == (1, 3, 96, 96) and 0 <= target.min() <= target.max() <= 1
            return torch.tensor([[0.5 if name == "musiq" else 0.25]])

        return metric

    module = types.ModuleType("pyiqa")
    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with the code of all examples."""
    folder = tmp_path_factory.mktemp("own")
    for title in TITLES:
        name, code, _ = example(title)
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def write(tmp_path, options, files):
    """Write an option file that uses an example; returns it."""

    def write_one(title, **changes):
        name, _, block = example(title)
        raw = merge(merge(options, {"custom_imports": [str(files / f"{name}.py")], **block}), changes)
        if title == "A data set":
            raw["datasets"]["train"] = {**block["datasets"]["train"], **changes.get("datasets", {}).get("train", {})}
        path = tmp_path / "own.yml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        return path

    return write_one


@pytest.mark.parametrize("title", TITLES)
def test_examples_are_short(title):
    _, code, _ = example(title)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= LONGEST


@pytest.mark.parametrize("title", TITLES)
def test_examples_train(title, write, tmp_path):
    training.main(["-opt", str(write(title))])
    folder = tmp_path / "experiments" / "own"
    log = next(folder.glob("train_*.log")).read_text(encoding="utf-8")
    expected = {
        "A network": "D2SMModel with TwoLayers",
        "An objective": "l_edge",
        "A data set": "Training images: 4",
        "A degradation": "D2SMModel with CBDNet",
        "A metric": "worst",
        "A metric of pyiqa": "musiq 0.5",
        "A logger": "End of training",
    }
    assert expected.get(title, "ScaledModel with CBDNet") in log
    if title == "A metric":
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        assert {row["metric"] for row in rows} == {"psnr", "worst"}
    if title == "A logger":
        lines = [json.loads(line) for line in (folder / "values.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 2]
        assert "losses/l_pixel" in lines[0] and "metrics/val/psnr" in lines[2]


@pytest.mark.parametrize(
    ("title", "changes", "message"),
    [
        ("A network", {"network_g": {"width": "8"}}, r"network_g\.width: expected an integer, got '8'"),
        ("A network", {"network_g": {"widht": 8}}, r"network_g\.widht: TwoLayers takes no such argument; .*'width'"),
        ("A network", {"network_g": {"width": -1}}, r"network_g: TwoLayers refuses these values \(RuntimeError: "),
        (
            "An objective",
            {"train": {"edge_opt": {"loss_weight": -1}}},
            r"edge_opt\.loss_weight: .* at least 0",
        ),
        (
            "A data set",
            {"datasets": {"train": {"sise": 3}}},
            r"train\.sise: unknown key; did you mean 'size'",
        ),
        (
            "A degradation",
            {"datasets": {"train": {"degradations": [{"type": "DeadPixels", "share": "few"}]}}},
            r"train\.degradations\.0\.share: expected a number, got 'few'",
        ),
        (
            "A metric",
            {"val": {"metrics": {"worst": {"border": 1}}}},
            r"worst\.border: .* no such argument; .*'crop_b",
        ),
        (TITLES[5], {"train": {"factor": "half"}}, r"train\.factor: expected a number, got 'half'"),
        (TITLES[5], {"train": {"facotr": 2}}, r"train\.facotr: unknown key; did you mean 'factor'"),
    ],
)
def test_their_arguments_are_checked(title, changes, message, write):
    with pytest.raises(OptionError, match=message):
        read_options(write(title, **changes))


def test_a_trained_network_of_yours_restores_pictures(write, files, photographs, tmp_path):
    training.main(["-opt", str(write("A network"))])
    weights = tmp_path / "experiments" / "own" / "models" / "net_g_latest.safetensors"
    assert "body.0.weight" in read_weights(weights)
    arguments = ["-i", str(photographs), "-o", str(tmp_path / "out"), "--checkpoint", str(weights), "--device", "cpu"]
    custom = ["--custom-import", str(files / "my_networks.py")]
    assert inference.main([*arguments, *custom, "--network", "TwoLayers", "--network-args", "width=8"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 6
