"""Dehazing networks restore pictures with their published weights, as well as recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY

from d2sm_plugin.inference.inference import main
from d2sm_plugin.inference.picture_files import Picture, read_picture, write_picture
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

FILES = {"GFN": "gfn_iter_240000.caffemodel", "MSCNN": "MSCNNDehazing_FL.mat"}


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
    checkpoint, pair = weights(shared, network), pairs(shared)[0]
    hazy, clear = tmp_path / "hazy.png", tmp_path / "clear.png"
    for source, target in zip(pair, (hazy, clear), strict=True):
        write_picture(target, Picture(read_picture(source).pixels[100:300, 150:415]))
    arguments = ["-i", str(hazy), "-o", str(tmp_path / "out"), "-n", network, "-c", str(checkpoint)]
    assert main([*arguments, "--device", "cpu"]) == 0
    restored, before, target = (read_picture(path).pixels for path in (tmp_path / "out" / hazy.name, hazy, clear))
    assert restored.shape == before.shape
    assert psnr(restored, target) > psnr(before, target) + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options", "recorded"),
    [("GFN", {}, 22.04), ("MSCNN", {"variant": "released"}, 17.75), ("MSCNN", {"variant": "paper"}, 17.97)],
)
def test_mean_psnr_on_sots_indoor(shared, network, options, recorded):
    restorer = build(ARCH_REGISTRY, {"type": network, **options}, "network_g")
    load_weights(restorer, weights(shared, network))
    values = []
    for hazy, clear in pairs(shared):
        lq = torch.from_numpy(read_picture(hazy).pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        restored = restore_batch(restorer, {"lq": lq})[0].clamp(0, 1).permute(1, 2, 0)
        values.append(psnr((restored * 255).round().numpy(), read_picture(clear).pixels))
    assert np.mean(values) == pytest.approx(recorded, abs=0.006)
