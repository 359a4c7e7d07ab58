from __future__ import annotations

import errno

import pytest
import torch

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.pipeline.checkpoint import CheckpointStore, describe_networks, read_state, save_atomically
from d2sm_plugin.weight_files import load_file, read_description

STATE = {"optimizers": [], "random": [], "drawn": 0}


def networks():
    return {"net_g": {"params": torch.nn.Linear(64, 64)}}


def test_the_newest_are_kept_and_latest_is_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    nets = networks()
    for step in (5, 10, 15):
        torch.nn.init.constant_(nets["net_g"]["params"].weight, step)
        store.save(step, nets, STATE)
    (store.states / "3.state").mkdir()  # of the user's
    assert store.iterations() == [10, 15]
    assert sorted(f.name for f in store.models.iterdir()) == [f"net_g_{m}.safetensors" for m in ("10", "15", "latest")]
    latest = load_file(store.models / "net_g_latest.safetensors")["params"]
    assert latest["weight"].unique().tolist() == [15.0]
    other = networks()
    assert store.load(store.latest_state(), other)["iter"] == 15
    assert torch.equal(other["net_g"]["params"].weight, nets["net_g"]["params"].weight)


def test_what_is_in_the_way_of_a_continued_run(tmp_path):
    store, nets = CheckpointStore(tmp_path), networks()
    for step in (5, 10, 15, 20):
        store.save(step, nets, STATE)
    store.keep = 1
    (store.models / "net_g_5.safetensors").unlink()  # a process was killed before it removed the state as well
    lines = []
    store.clear_up(15, ["net_g"], lines.append)
    assert lines == [f"{store.states / '20.state'}: of a later step than 15, renamed to 20.state.old"]
    assert sorted(f.name for f in store.states.iterdir()) == ["15.state", "20.state.old"]
    left = [f"net_g_{moment}.safetensors" for moment in ("15", "20", "latest")]
    assert sorted(f.name for f in store.models.iterdir()) == left
    store.clear_up(15, ["net_g"], lines.append)
    assert len(lines) == 1


def test_a_write_that_fails_keeps_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.pth"
    save_atomically({"x": torch.ones(1)}, path)
    with full_disk(), pytest.raises(CheckpointError, match=r"a\.pth: cannot be written .*MiB free.*--auto_resume"):
        save_atomically({"x": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True)["x"].tolist() == [1.0]
    assert [f.name for f in tmp_path.iterdir()] == ["a.pth"]


def test_disk_full_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_atomically({}, tmp_path / "a.pth")


def test_damaged_and_foreign_states_are_refused(tmp_path):
    (tmp_path / "1.state").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"1\.state: (cannot be read|refused)"):
        read_state(tmp_path / "1.state")
    torch.save({"epoch": 1, "iter": 2}, tmp_path / "2.state")
    with pytest.raises(CheckpointError, match=r"2\.state: not a training state that this package wrote"):
        read_state(tmp_path / "2.state")
    with pytest.raises(CheckpointError, match="no such training state"):
        read_state(tmp_path / "3.state")


@pytest.mark.parametrize("file", ["training_states/15.state", "models/net_g_15.safetensors"])
def test_the_newest_that_is_whole(tmp_path, file):
    store, nets = CheckpointStore(tmp_path), networks()
    with pytest.raises(CheckpointError, match="training_states; there is no other training state"):
        store.newest_whole()
    for step in (5, 10, 15):
        store.save(step, nets, STATE)
    assert store.newest_whole() == (store.states / "15.state", [])
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:500])
    path, problems = store.newest_whole()
    assert path == store.states / "10.state"
    assert len(problems) == 1 and file in problems[0]


def test_files_say_what_network_they_hold(tmp_path):
    options = {"name": "recipe", "network_g": {"type": "FFDNet", "num_feat": 8}, "network_d": None}
    store = CheckpointStore(tmp_path, descriptions=describe_networks(options))
    store.save(5, networks(), STATE)
    about = read_description(store.network_file("net_g", "latest"))
    assert (about.network, about.recipe, about.step) == (options["network_g"], "recipe", 5)


def test_a_run_may_change_the_kind_of_its_files(tmp_path):
    nets = networks()
    for step, ending in ((1, ".pth"), (2, ".safetensors"), (3, ".pth")):
        torch.nn.init.constant_(nets["net_g"]["params"].weight, step)
        store = CheckpointStore(tmp_path, keep=2, ending=ending)
        store.save(step, nets, STATE)
        other = networks()
        store.load(store.latest_state(), other)
        assert torch.equal(other["net_g"]["params"].weight, nets["net_g"]["params"].weight)
    assert sorted(f.name for f in store.models.iterdir()) == ["net_g_2.safetensors", "net_g_3.pth", "net_g_latest.pth"]
    assert store.newest_whole()[0].name == "3.state"
