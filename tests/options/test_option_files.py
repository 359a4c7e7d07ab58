"""Every option file that ships is started, on tiny data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml
from tiny_options import TinyData, tiny

from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline import testing
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.safe_yaml import read_yaml

OPTIONS = sorted((Path(__file__).resolve().parents[2] / "options").glob("*.yml"))


@pytest.fixture(scope="module")
def data(photographs, tmp_path_factory):
    return TinyData(photographs, tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: file.stem)
def test_option_file_starts(file, data, tmp_path):
    raw = read_yaml(file)
    is_train = "train" in raw
    read_options(file, is_train=is_train)  # as it stands, it is valid
    shrinkers = {
        "NoisyImageDataset": data.noisy_images,
        "PairedImageDataset": partial(data.paired_images, scale=raw.get("scale", 1)),
        "FaceDataset": data.faces,
    }
    path = tmp_path / file.name
    path.write_text(yaml.safe_dump(tiny(raw, data, tmp_path, shrinkers), sort_keys=False), encoding="utf-8")
    assert (training if is_train else testing).main(["-opt", str(path)]) == 0
    if is_train:
        models = tmp_path / "experiments" / raw["name"] / "models"
        assert (models / "net_g_2.pth").is_file()
        log = next((tmp_path / "experiments" / raw["name"]).glob("*.log")).read_text()
        for name in (key.removesuffix("_opt") for key, block in raw["train"].items() if key.endswith("_opt") and block):
            assert f"l_{name}: " in log
    else:
        assert (tmp_path / "results" / raw["name"] / "metrics.csv").is_file()


def test_every_small_variant_has_its_paper_scale_twin():
    names = {file.stem for file in OPTIONS}
    for name in names:
        if name.startswith("small_") and name.removeprefix("small_").startswith(("cbdnet", "sadnet")):
            assert name.replace("small_", "train_") in names
