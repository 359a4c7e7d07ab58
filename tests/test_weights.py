from __future__ import annotations

import os
import zipfile

import pytest
import torch
from torch import nn

from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.options.trials import try_network
from d2sm_plugin.registry import ARCH_REGISTRY, register
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


@register(ARCH_REGISTRY)
class Counting(nn.Linear):
    """A network of whose state a part is no tensor."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def get_extra_state(self):
        return {"calls": 3}


def test_state_that_no_file_keeps_is_refused(tmp_path):
    message = "Counting: '_extra_state' of its state is a dict, and weight files keep tensors alone"
    with pytest.raises(OptionError, match=f"^network_g: {message}"):
        try_network({"type": "Counting"}, "network_g")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(OptionError, match=message):
        load_weights(Counting(), tmp_path / "a.pth")


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


def changed(value):
    state = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).state_dict()
    return state | value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.full((3, 3), torch.nan)}, r"'0.weight' holds values that are no numbers \(9 of 9\)"),
        ({"0.bias": torch.tensor([0.0, torch.inf, 1.0])}, r"'0.bias' holds values that are no numbers \(1 of 3\)"),
        (
            {"1.running_var": torch.tensor([0.0, torch.nan, 1.0])},
            r"'1.running_var' holds values that are no numbers .1 of 3.",
        ),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, change, message):
    torch.save(changed(change), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: {message}; the training that wrote it had failed"):
        load_weights(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), tmp_path / "a.pth")


def test_infinite_buffers_are_let_through(tmp_path):
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    assert load_weights(network, tmp_path / "a.pth") == []


def test_keys_that_are_no_names(tmp_path):
    torch.save({0: torch.ones(2), 1: torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: a tensor has the key 0; expected names"):
        read_weights(tmp_path / "a.pth")
    torch.save({"params": [1, 2], "x": torch.ones(2)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b\.pth: the entry 'params' is no state dict but list"):
        read_weights(tmp_path / "b.pth", "params")


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "text").write_text("a host's name\n")
    for size in (0, 1, 2, 100):
        (tmp_path / "zeros").write_bytes(b"\0" * size)
        with pytest.raises(CheckpointError, match="zeros: "):
            read_weights(tmp_path / "zeros")
    with pytest.raises(CheckpointError, match="text: "):
        read_weights(tmp_path / "text")
    for source in (tmp_path, "a\0b", "x" * 5000, "~nobody_at_all/x.pth", "http://[", "https://"):
        with pytest.raises(CheckpointError):
            read_weights(source)


def test_files_that_unpack_to_more_than_they_hold(tmp_path):
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as whole, zipfile.ZipFile(tmp_path / "b.pth", "w", 8) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert (tmp_path / "b.pth").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"b\.pth: its content is compressed, which torch.save never does"):
        read_weights(tmp_path / "b.pth")
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: 'a' has 1,000,000,000,000 values, far more than the file"):
        read_weights(tmp_path / "c.pth")
    torch.save({"a": torch.zeros(1).expand(3, 4)}, tmp_path / "d.pth")
    assert read_weights(tmp_path / "d.pth")["a"].shape == (3, 4)


def test_flipped_bits_are_an_error_or_other_numbers(tmp_path):
    """Whatever bit of a file is flipped, reading it is a CheckpointError or works."""
    network = nn.Linear(4, 4)
    torch.save({"params": network.state_dict()}, tmp_path / "a.pth")
    data = (tmp_path / "a.pth").read_bytes()
    generator = torch.Generator().manual_seed(0)
    outcomes = {"refused": 0, "read": 0}
    for position in torch.randint(len(data), (150,), generator=generator).tolist():
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        (tmp_path / "b.pth").write_bytes(flipped)
        try:
            load_weights(network, tmp_path / "b.pth")
            outcomes["read"] += 1
        except CheckpointError as error:
            assert "b.pth" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0
