from __future__ import annotations

import os
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from seg_material import TINY_CLASSES, write_tiny

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.seg import build_segmentor
from d2sm_plugin.seg.checkpoint import read_seg_checkpoint

pytest.importorskip("mmseg")


def test_new_layout(tiny):
    checkpoint = read_seg_checkpoint(tiny[1])
    assert checkpoint.classes == tuple(TINY_CLASSES)
    assert checkpoint.palette[1] == (10, 20, 190)
    assert build_segmentor(*tiny).classes == tuple(TINY_CLASSES)


def test_old_layout_in_the_old_file_format(tmp_path, tiny):
    config, path = write_tiny(tmp_path, layout="old")
    contents = torch.load(path, weights_only=True)
    contents["state_dict"] = OrderedDict(
        (f"module.{name}", value)
        for name, value in contents["state_dict"].items()
        if not name.endswith("num_batches_tracked")
    )
    contents["state_dict"]["auxiliary_head.conv_seg.weight"] = torch.zeros(5, 4, 1, 1)
    old = tmp_path / "old.pth"
    torch.save(contents, old, _use_new_zipfile_serialization=False)
    segmentor = build_segmentor(config, old)
    assert segmentor.classes == tuple(TINY_CLASSES)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(segmentor.predict(images), build_segmentor(*tiny).predict(images))


def test_bare_state_dict(tmp_path, tiny):
    path = tmp_path / "bare.pth"
    torch.save(torch.load(tiny[1], weights_only=True)["state_dict"], path)
    checkpoint = read_seg_checkpoint(path)
    assert checkpoint.classes == ()
    assert build_segmentor(tiny[0], path).num_classes == 5


def test_logs_and_settings_of_a_training_are_skipped(tmp_path, tiny):
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([0.5, 0.25], [1, 1])
    contents = torch.load(tiny[1], weights_only=True)
    contents["message_hub"] = {"log_scalars": {"train/loss": history}, "runtime_info": {"cfg": ConfigDict(a=1)}}
    contents["meta"] |= {"time": np.float64(3), "rng": np.arange(3), "work_dir": Path("runs")}
    contents["optimizer"] = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    contents["other"] = [defaultdict(list, a=[1]), deque([1, 2]), np.random.default_rng(0).random(4)]
    path = tmp_path / "trained.pth"
    torch.save(contents, path)
    checkpoint = read_seg_checkpoint(path)
    assert checkpoint.classes == tuple(TINY_CLASSES)
    assert build_segmentor(tiny[0], path).num_classes == 5
    assert torch.load(path, weights_only=False)["message_hub"]["log_scalars"]["train/loss"].mean() == 0.375


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


class Unknown:
    pass


@pytest.mark.parametrize("content", [Malicious(), Unknown()])
def test_other_objects_are_refused_and_nothing_runs(tmp_path, monkeypatch, tiny, content):
    monkeypatch.chdir(tmp_path)
    contents = torch.load(tiny[1], weights_only=True)
    contents["meta"]["hook"] = content
    path = tmp_path / "evil.pth"
    torch.save(contents, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused, because"):
        read_seg_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_damaged_and_foreign_files(tmp_path, tiny):
    data = Path(tiny[1]).read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pth: cannot be read"):
        read_seg_checkpoint(cut)
    text = tmp_path / "text.pth"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        read_seg_checkpoint(text)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="found list"):
        read_seg_checkpoint(tmp_path / "list.pth")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_seg_checkpoint(tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        read_seg_checkpoint(tmp_path / "none.pth")


def test_url_is_kept_in_the_hub_cache(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "net-01234567.pth"
    cached.parent.mkdir()
    cached.write_bytes(Path(tiny[1]).read_bytes())
    assert read_seg_checkpoint("https://example.org/a/net-01234567.pth").classes == tuple(TINY_CLASSES)
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        read_seg_checkpoint("http://127.0.0.1:9/other.pth")


def changed(tmp_path, tiny, change) -> Path:
    contents = torch.load(tiny[1], weights_only=True)
    change(contents)
    path = tmp_path / "changed.pth"
    torch.save(contents, path)
    return path


def test_other_number_of_classes_is_refused(tmp_path, tiny, shared):
    with pytest.raises(CheckpointError, match=r"trained on 11 classes .* builds a network of 5"):
        build_segmentor(tiny[0], shared / "weights/hrnet18s_camvid11.pth")


def test_other_number_of_classes_is_refused_without_description(tmp_path, tiny):
    def change(contents):
        contents["meta"] = {}
        contents["state_dict"]["decode_head.conv_seg.weight"] = torch.zeros(7, 16, 1, 1)

    with pytest.raises(CheckpointError, match=r"decode_head\.conv_seg\.weight, \(7, 16, 1, 1\) instead of"):
        build_segmentor(tiny[0], changed(tmp_path, tiny, change))


def test_partial_fit_is_refused(tmp_path, tiny):
    def drop(contents):
        del contents["state_dict"]["backbone.conv1.weight"]

    def add(contents):
        contents["state_dict"]["neck.weight"] = torch.zeros(1)

    with pytest.raises(CheckpointError, match=r"1 missing \(first: backbone\.conv1\.weight\)"):
        build_segmentor(tiny[0], changed(tmp_path, tiny, drop))
    with pytest.raises(CheckpointError, match=r"1 left over \(first: neck\.weight\)"):
        build_segmentor(tiny[0], changed(tmp_path, tiny, add))


def test_weights_that_are_no_numbers_and_keys_that_are_no_names(tmp_path):
    torch.save({"state_dict": {"a": torch.tensor([1.0, torch.nan])}}, tmp_path / "nan.pth")
    torch.save({0: torch.ones(1)}, tmp_path / "keys.pth")
    for name, message in (("nan", "'a' holds values that are no numbers"), ("keys", "a tensor has the key 0")):
        with pytest.raises(CheckpointError, match=rf"{name}\.pth: {message}"):
            read_seg_checkpoint(tmp_path / f"{name}.pth")


@pytest.mark.parametrize("palette", ["red", [1, 2], [["a", "b", "c"]], [[0, 0, 256]], [[0, 0]], None])
def test_palettes_that_are_none(tmp_path, palette):
    meta = {"dataset_meta": {"classes": ["a"], "palette": palette}}
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": meta}, tmp_path / "a.pth")
    read = read_seg_checkpoint(tmp_path / "a.pth")
    assert (read.classes, read.palette) == (("a",), ())
