from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.weights import load_weights, read_weights


class Renamed(nn.Linear):
    """A network whose published weights have other names."""

    @staticmethod
    def convert_state_dict(state):
        return {name.replace("old_", ""): value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"params": s},
        lambda s: {"params": {k: v * 0 for k, v in s.items()}, "params_ema": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
    ],
    ids=["flat", "params", "ema", "wrapped"],
)
def test_known_wrappers_are_found(tmp_path, wrap):
    network = nn.Linear(2, 2)
    torch.save(wrap(network.state_dict()), tmp_path / "a.pth")
    other = nn.Linear(2, 2)
    assert load_weights(other, tmp_path / "a.pth") == []
    assert torch.equal(other.weight, network.weight)


def test_published_names_are_mapped(tmp_path):
    torch.save({"old_weight": torch.ones(2, 2), "old_bias": torch.zeros(2)}, tmp_path / "a.pth")
    network = Renamed(2, 2)
    load_weights(network, tmp_path / "a.pth")
    assert network.weight.unique().tolist() == [1.0]


class Harmful:
    """Runs a command when it is unpickled the unsafe way."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_pickle_that_is_not_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": Harmful()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: refused, because it holds more than weights"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "harmed").exists()


def test_damaged_missing_and_foreign_files(tmp_path):
    torch.save({"params": nn.Linear(64, 64).state_dict()}, tmp_path / "a.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"cut\.pth: .*truncated"):
        read_weights(tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"no entry 'params_ema'; it holds params"):
        read_weights(tmp_path / "a.pth", "params_ema")
    torch.save({"epoch": 1}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="it holds no tensors"):
        read_weights(tmp_path / "b.pth")


def test_another_architecture_is_named(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of this Linear; tensors: 2 of another shape"):
        load_weights(nn.Linear(2, 2), tmp_path / "a.pth")
    assert load_weights(nn.Linear(2, 2), tmp_path / "a.pth", strict=False) == ["bias", "weight"]
