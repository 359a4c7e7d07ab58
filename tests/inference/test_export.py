from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import OptionError
from d2sm_plugin.inference import export
from d2sm_plugin.inference.restorer import Restorer
from d2sm_plugin.registry import ARCH_REGISTRY
from d2sm_plugin.weight_files import ABOUT, Description

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install '.[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[export]'")
BLOCK = {"type": "FFDNet", "num_feat": 8, "num_layers": 3}


class HalfSizes(torch.nn.Module):
    """A network for sides that are even, as it halves and doubles them."""

    inputs = ("lq",)

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = torch.nn.PixelUnshuffle(2), torch.nn.PixelShuffle(2)
        self.body = torch.nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, lq):
        return {"restored": self.up(self.body(self.down(lq))), "map": lq}


def test_a_command_exports_any_size(tmp_path, capsys):
    torch.manual_seed(0)
    network = FFDNet(num_feat=8, num_layers=3)
    Restorer(network, about=Description(BLOCK)).save(tmp_path / "net.safetensors")
    out = tmp_path / "net.onnx"
    assert export.main(["--weights", str(tmp_path / "net.safetensors"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1x3x51x68" in said and "lq, sigma -> restored; any batch, any height and width" in said
    model = onnx.load(out)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["size_multiple"] == "1"
    assert json.loads(metadata[ABOUT])["network"] == BLOCK
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 33, 70), dtype=np.float32)
    (restored,) = session.run(None, {"lq": image, "sigma": np.full((1, 1, 1, 1), 25 / 255, np.float32)})
    assert np.abs(restored.clip(0, 1) - Restorer(network, sigma=25)(torch.from_numpy(image)).numpy()).max() < 1e-5


def test_sides_that_must_be_multiples_are_told(monkeypatch):
    torch.manual_seed(0)
    network = HalfSizes().eval()
    data, multiple = export.to_onnx(network)
    assert multiple == 16  # nothing is declared: what the tiles of such networks start on
    assert all(check.difference < 1e-5 for check in export.compare(network, data, multiple))
    network.size_multiple = 2
    assert export.to_onnx(network)[1] == 2


def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
    network = FFDNet(num_feat=8, num_layers=3).eval()
    with pytest.raises(OptionError, match=r"ends with \.onnx"):
        export.main(["--weights", "x.pth", "--out", str(tmp_path / "x.bin")])
    network.inputs = ("lq", "landmarks")
    with pytest.raises(OptionError, match="FFDNet takes lq, landmarks; only networks that take lq and sigma"):
        export.to_onnx(network)
    Restorer(FFDNet(num_feat=8, num_layers=3), about=Description(BLOCK)).save(tmp_path / "net.pth")
    monkeypatch.setattr(export, "to_onnx", lambda *_: (b"", 1))
    monkeypatch.setattr(export, "compare", lambda *_: [export.Check((1, 3, 8, 8), float("nan"))])
    with pytest.raises(OptionError, match=r"x\.onnx: not written, as ONNX Runtime differs .* by nan"):
        export.main(["--weights", str(tmp_path / "net.pth"), "--out", str(tmp_path / "x.onnx")])
    assert not (tmp_path / "x.onnx").exists()
    monkeypatch.undo()
    with pytest.raises(OptionError, match="FFDNet: ONNX Runtime cannot run what was exported"):
        export.compare(FFDNet(num_feat=8, num_layers=3), b"no model", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CBDNet", "SADNet", "MSBDN", "GFN", "MSCNN", "GridDehazeNet", "PFFNet", "RDN"])
def test_networks_export(name):
    torch.manual_seed(0)
    network = ARCH_REGISTRY.get(name)().eval()
    data, multiple = export.to_onnx(network)
    assert all(check.difference < 1e-3 for check in export.compare(network, data, multiple))
