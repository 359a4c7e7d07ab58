"""Configs in YAML and JSON give the network of the same config in Python, and run nothing."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml

from d2sm_plugin.errors import OptionError
from d2sm_plugin.seg import build_segmentor
from d2sm_plugin.seg.openmmlab import nothing_unpickled, read_config
from d2sm_plugin.seg.plain_config import read_plain_config

pytest.importorskip("mmseg")


class Harmful:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.fixture
def plain(tiny):
    """The tiny config as plain data."""
    from mmengine import Config

    return json.loads(json.dumps(Config.fromfile(tiny[0]).to_dict()))


@pytest.fixture
def unharmed(tmp_path, monkeypatch):
    """Runs in a folder of its own with a module that leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evil.py").write_text("open('harmed', 'w').close()\n")
    Path("evilscope").mkdir()
    Path("evilscope/__init__.py").write_text("open('harmed', 'w').close()\n")
    yield
    assert not Path("harmed").exists()


@pytest.mark.parametrize("form", ["dumped .yaml", ".json", ".yml with bases"])
def test_same_network_as_from_python(tiny, plain, tmp_path, form):
    from mmengine import Config

    if form == "dumped .yaml":  # by mmengine, which writes tuples with a tag
        path = tmp_path / "a.yaml"
        Config.fromfile(tiny[0]).dump(str(path))
    elif form == ".json":
        path = tmp_path / "a.json"
        path.write_text(json.dumps(plain))
    else:
        path = tmp_path / "sub/a.yml"
        path.parent.mkdir()
        head = plain["model"].pop("decode_head")
        wrong = plain["model"].pop("backbone")
        (tmp_path / "base.json").write_text(json.dumps(plain | {"model": plain["model"] | {"decode_head": {"x": 1}}}))
        (tmp_path / "backbone.yml").write_text(yaml.safe_dump({"model": {"backbone": wrong, "decode_head": {"y": 2}}}))
        model = {"decode_head": head | {"_delete_": True}}
        path.write_text(yaml.safe_dump({"_base_": ["../base.json", "../backbone.yml"], "model": model}))
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = build_segmentor(tiny[0], tiny[1]).logits(images)
        assert torch.equal(build_segmentor(str(path), tiny[1]).logits(images), expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "model: !!python/object/apply:os.system ['touch harmed']"),
        ("a.yml", "model: !!python/object/new:os.system ['touch harmed']"),
        ("a.yml", "x: !!python/name:evil.anything\nmodel: {type: EncoderDecoder}"),
        ("a.yml", "x: !!python/module:evil\nmodel: {type: EncoderDecoder}"),
        ("a.yml", "custom_imports: {imports: [evil]}\nmodel: {type: EncoderDecoder}"),
        ("a.json", '{"custom_imports": {"imports": ["evil"]}, "model": {"type": "EncoderDecoder"}}'),
        ("a.yml", "_base_: evil.py\nmodel: {type: EncoderDecoder}"),
        ("a.json", '{"_base_": ["evil.py"], "model": {"type": "EncoderDecoder"}}'),
        ("a.yml", "_base_: evilscope/__init__.py"),
        ("a.json", '{"model": {"type": "subprocess.Popen", "args": ["touch", "harmed"]}}'),
        ("a.yml", "model: {type: evil}"),
        ("a.yml", "model: {type: EncoderDecoder, backbone: {type: evil.anything}}"),
        ("a.yml", "model: {type: EncoderDecoder, backbone: {type: [HRNet]}}"),
        ("a.yml", "model: {type: mmcv.imwrite, file_path: harmed}"),
        ("a.yml", "model: {type: EncoderDecoder, _scope_: evilscope}"),
        ("a.yml", "default_scope: evilscope\nmodel: {type: EncoderDecoder}"),
        ("a.yml", "model: {type: EncoderDecoder}\ntest_pipeline: [{type: os.system, command: touch harmed}]"),
        ("a.yml", "model: {type: EncoderDecoder, decode_head: {loss_decode: {class_weight: weights.pkl}}}"),
    ],
)
def test_nothing_that_a_config_names_is_run(unharmed, name, text):
    Path(name).write_text(text)
    Path("weights.pkl").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(OptionError, match=rf"({name}|evil\.py|__init__\.py): "):
        build_segmentor(name, None, test_resize=True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yml", "_base_: a.yml", "in a circle"),
        ("a.yml", "_base_: {x: 1}", "expected names"),
        ("a.yml", "_base_: [1]", "expected names of files"),
        ("a.yml", "_base_: gone.yml", "cannot be read"),
        ("a.yml", "- a\n- b", "expected 'key: value'"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("a.yml", "a: " + "x" * 300_000, "longer than 256 KiB"),
        ("a.yml", "model: {type: EncoderDecoder, backbone: 3}", "mmseg cannot build"),
        ("a.yml", "x: 1", "no 'model'"),
        ("a.py", "raise ZeroDivisionError", "ZeroDivisionError"),
    ],
)
def test_configs_that_cannot_be_used(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=message) as caught:
        build_segmentor(str(tmp_path / name), None)
    assert len(str(caught.value)) < 1000


def test_other_weights_are_left_out(tmp_path, plain):
    plain["model"]["backbone"] |= {"pretrained": "x.pth", "init_cfg": {"type": "Pretrained", "checkpoint": "x.pth"}}
    (tmp_path / "a.json").write_text(json.dumps(plain))
    text = json.dumps(read_plain_config(tmp_path / "a.json"))
    assert "x.pth" not in text and "init_cfg" not in text
    assert read_config(tmp_path / "a.json").model.decode_head.num_classes == 5


def test_parts_of_other_packages_unpickle_nothing(unharmed, monkeypatch):
    torch.save(Harmful(), "a.pth")
    with nothing_unpickled(), pytest.raises(pickle.UnpicklingError):
        torch.load("a.pth", weights_only=False)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    with nothing_unpickled():
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "~nobody_at_all/x.py"])
def test_names_that_no_config_can_have(source):
    with pytest.raises(OptionError, match="config "):
        build_segmentor(source, None)
