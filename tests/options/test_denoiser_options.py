"""Option files of CBDNet and SADNet: the paper's settings, and one checkpoint measured at three noise levels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from skimage import data as photographs
from skimage.io import imsave

from d2sm_plugin.archs.cbdnet_arch import CBDNet
from d2sm_plugin.archs.sadnet_arch import SADNet
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.testing import main as measure

OPTIONS = Path(__file__).resolve().parents[2] / "options"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in ("astronaut", "coffee"):
        imsave(folder / f"{name}.png", getattr(photographs, name)()[100:180, 100:200])
    return folder


@pytest.mark.parametrize("name", ["cbdnet", "sadnet"])
def test_paper_settings(name):
    options = read_options(OPTIONS / f"train_{name}_d2sm.yml")
    data = options["datasets"]["train"]
    assert (data["gt_size"], data["batch_size_per_gpu"], data["sigma_range"]) == (512, 64, [0, 75])
    assert options["train"]["d2sm_opt"]["patches"] == {"type": "PatchSampler", "size": 224, "stride": 56}
    assert options["train"]["pixel_opt"]["type"] == "MSELoss"
    assert read_options(OPTIONS / f"test_{name}.yml", is_train=False)["datasets"]["test"]["sigma"] == [25, 35, 50]


@pytest.mark.parametrize(("name", "network"), [("cbdnet", CBDNet), ("sadnet", SADNet)])
def test_blind_test_at_three_levels(name, network, images, tmp_path):
    torch.manual_seed(0)
    torch.save({"params": network(num_feat=8).state_dict()}, tmp_path / "net.pth")
    overrides = [
        f"datasets:test:dataroot_gt={images}",
        "datasets:test:io_backend:type=disk",
        "network_g:num_feat=8",
        f"path:pretrain_network_g={tmp_path / 'net.pth'}",
        f"path:results_root={tmp_path / 'results'}",
        "num_gpu=0",
    ]
    assert measure(["-opt", str(OPTIONS / f"test_{name}.yml"), "--force_yml", *overrides]) == 0
    (table,) = tmp_path.rglob("metrics.csv")
    rows = table.read_text(encoding="utf-8").splitlines()
    psnr = [float(row.rsplit(",", 1)[1]) for row in rows if ",psnr," in row]
    assert len(psnr) >= 3
    assert all(math.isfinite(value) for value in psnr)
