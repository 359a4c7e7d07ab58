"""Every option file that ships is started, on tiny data."""

from __future__ import annotations

from functools import partial

import pytest
import yaml
from tiny_options import TinyData, tiny

from d2sm_plugin.options.files import read_option_file, shipped_folder
from d2sm_plugin.options.options import EDITOR_LINE
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline import testing
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.safe_yaml import read_yaml

OPTIONS = sorted(shipped_folder().glob("*.yml"))


@pytest.fixture(scope="module")
def data(photographs, tmp_path_factory):
    return TinyData(photographs, tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: file.stem)
def test_option_file_starts(file, data, tmp_path):
    raw = read_option_file(file).content
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
        assert (models / "net_g_2.safetensors").is_file()
        log = next((tmp_path / "experiments" / raw["name"]).glob("*.log")).read_text()
        for name in (key.removesuffix("_opt") for key, block in raw["train"].items() if key.endswith("_opt") and block):
            assert f"l_{name}: " in log
    else:
        assert (tmp_path / "results" / raw["name"] / "metrics.csv").is_file()


@pytest.mark.parametrize("file", sorted(shipped_folder().rglob("*.yml")), ids=lambda file: file.stem)
def test_option_file_states_what_it_changes(file):
    editors, *lines = file.read_text(encoding="utf-8").splitlines()
    assert editors.startswith(EDITOR_LINE) and (file.parent / editors.removeprefix(EDITOR_LINE)).is_file()
    assert 1 <= next(number for number, line in enumerate(lines) if not line.startswith("#")) <= 3
    content = read_yaml(file)
    if "extends" in content:
        parent = read_option_file(file.parent / content["extends"]).content
        assert not list(repeated(parent, content))


def repeated(parent, content, path=""):
    """Yield the path of every value that a file states although its parent has the same one."""
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(parent.get(key), dict):
            same_class = value.get("type", parent[key].get("type")) == parent[key].get("type")
            yield from repeated(parent[key] if same_class else {}, value, f"{path}{key}.")
        elif key in parent and parent[key] == value:
            yield f"{path}{key}"


def test_every_small_variant_has_its_paper_scale_twin():
    names = {file.stem for file in OPTIONS}
    for name in names:
        if name.startswith("small_") and name.removeprefix("small_").startswith(("cbdnet", "sadnet")):
            assert name.replace("small_", "train_") in names
