"""Dehazing networks restore pictures with their published weights, as well as recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2sm_plugin.archs.gfn_arch import GFN
from d2sm_plugin.archs.mscnn_arch import MSCNN
from d2sm_plugin.inference.inference import main
from d2sm_plugin.inference.picture_files import read_picture
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.weights import load_weights

#: Network -> published file, and PSNR on the 16 test images of SOTS indoor, both figures recorded beforehand.
FILES = {"GFN": "gfn_iter_240000.caffemodel", "MSCNN": "MSCNNDehazing_FL.mat"}
RECORDED = [(GFN(), 22.04), (MSCNN("released"), 17.75), (MSCNN("paper"), 17.97)]


def weights(shared, network: str):
    path = shared / "weights" / "dehazing" / FILES[network]
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return path


def pairs(shared):
    folder = shared / "data" / "sots_indoor" / "test"
    hazy = sorted((folder / "hazy").glob("*.png"))
    if len(hazy) != 16:
        pytest.skip(f"needs the 16 images of {folder}")
    return [(path, folder / "gt" / f"{path.stem.split('_')[0]}.png") for path in hazy]


def psnr(restored: np.ndarray, clear: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((restored.astype(np.float64) - clear) ** 2))


@pytest.mark.parametrize("network", ["GFN", "MSCNN"])
def test_tool_restores_a_picture_with_the_published_file(shared, tmp_path, network):
    checkpoint, (hazy, clear) = weights(shared, network), pairs(shared)[0]
    arguments = ["-i", str(hazy), "-o", str(tmp_path / "out"), "-n", network, "-c", str(checkpoint)]
    assert main([*arguments, "--device", "cpu"]) == 0
    restored, before, target = (read_picture(path).pixels for path in (tmp_path / "out" / hazy.name, hazy, clear))
    assert restored.shape == before.shape
    assert psnr(restored, target) > psnr(before, target) + 2


@pytest.mark.slow
@pytest.mark.parametrize(("network", "expected"), RECORDED, ids=["GFN", "MSCNN_released", "MSCNN_paper"])
def test_mean_psnr_on_sots_indoor(shared, network, expected):
    load_weights(network, weights(shared, type(network).__name__))
    values = []
    for hazy, clear in pairs(shared):
        lq = torch.from_numpy(read_picture(hazy).pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        restored = restore_batch(network, {"lq": lq})[0].clamp(0, 1).permute(1, 2, 0)
        values.append(psnr((restored * 255).round().numpy(), read_picture(clear).pixels))
    assert np.mean(values) == pytest.approx(expected, abs=0.006)
