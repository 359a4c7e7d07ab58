from __future__ import annotations

import io
import json

import pytest
import safetensors.torch
import torch

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.weight_files import ABOUT, Description, load_file, read_description, write_tensors
from d2sm_plugin.weights import load_weights, read_weights

BLOCK = {"type": "FFDNet", "num_feat": 8, "slopes": [0.1, 0.2], "big": float("inf"), "none": None}


def write(path, about=None, network=None):
    network = network or torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    average = {name: value + 1 for name, value in network.state_dict().items()}
    with path.open("wb") as file:
        write_tensors(file, path.suffix, {"params": network.state_dict(), "params_ema": average}, about)
    return network


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("about", [None, Description(BLOCK, "a recipe", 12)], ids=["bare", "described"])
def test_tensors_and_description_come_back(tmp_path, ending, about):
    path = tmp_path / f"a{ending}"
    network = write(path, about)
    loaded = load_file(path)
    for key, shift in (("params", 0), ("params_ema", 1)):
        assert loaded[key].keys() == network.state_dict().keys()
        for name, value in network.state_dict().items():
            assert loaded[key][name].dtype == value.dtype
            assert torch.equal(loaded[key][name], value + shift)
    assert read_description(path) == about
    assert torch.equal(read_weights(path)["0.bias"], network[0].bias + 1)  # the moving average is the network to use
    assert load_weights(network, path, "params") == []


def test_others_read_the_files(tmp_path):
    write(tmp_path / "a.safetensors", Description(BLOCK))
    names = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert {name.partition(".")[0] for name in names} == {"params", "params_ema"}
    write(tmp_path / "a.pth", Description(BLOCK))
    assert torch.load(tmp_path / "a.pth", weights_only=True)["params"]["0.bias"].shape == (4,)


def test_files_of_others_are_read(tmp_path):
    network = torch.nn.Linear(3, 2)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors", {"format": "pt"})
    assert read_weights(tmp_path / "a.safetensors").keys() == {"weight", "bias"}
    assert read_description(tmp_path / "a.safetensors") is None


def test_the_same_weights_make_the_same_bytes(tmp_path):
    network = torch.nn.Linear(3, 2)
    for name in "ab":
        write(tmp_path / f"{name}.safetensors", Description(BLOCK, "r", 1), network)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_layouts_and_shared_memory_do_not_matter(tmp_path):
    weight = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    file = io.BytesIO()
    write_tensors(file, ".safetensors", {"params": {"a": weight, "b": weight, "t": torch.randn(3, 2).T}})
    loaded = safetensors.torch.load(file.getvalue())
    assert torch.equal(loaded["params.a"], weight)
    assert torch.equal(loaded["params.b"], weight)


@pytest.mark.parametrize("length", [0, 4, 8, 200, -1], ids=str)
def test_damaged_files_are_one_line(tmp_path, length):
    path = tmp_path / "a.safetensors"
    write(path, Description(BLOCK))
    path.write_bytes(path.read_bytes()[:length])
    for read in (load_file, read_description):
        with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read .*is it truncated"):
            read(path)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"network": 3}', '{"network": {"type": 4}}', "[" * 5000])
def test_damaged_descriptions_are_one_line(tmp_path, text):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"params.x": torch.ones(1)}, path, {ABOUT: text})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: its description \('d2sm'\) is damaged"):
        read_description(path)
    assert load_file(path)["params"]["x"].tolist() == [1.0]


def test_later_versions_may_say_more():
    about = Description.from_json(json.dumps({"network": BLOCK, "colour": "blue", "step": 3}), "x")
    assert about is not None
    assert (about.step, dict(about.network)) == (3, BLOCK)


def test_a_file_from_the_web(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    network = write(tmp_path / "a.safetensors", Description(BLOCK))

    def download(url, file):
        assert url == "https://example.org/weights/a.safetensors?download=1"
        with open(file, "wb") as target:
            target.write((tmp_path / "a.safetensors").read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        state = read_weights("https://example.org/weights/a.safetensors?download=1", "params")
        monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # the second time it is there
    assert torch.equal(state["0.weight"], network[0].weight)
