from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet

from d2sm_plugin.archs.spandrel_arch import SpandrelNetwork
from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.inference.restorer import Restorer
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.weight_files import Description
from d2sm_plugin.weights import read_weights

pytest.importorskip("spandrel", reason="needs spandrel: pip install '.[spandrel]'")


def test_published_weights_say_what_network_it_is(tmp_path):
    torch.manual_seed(0)
    published = RRDBNet(3, 3, num_feat=16, num_block=1, num_grow_ch=32, scale=2)
    torch.save({"params_ema": published.state_dict()}, tmp_path / "esrgan.pth")
    network = SpandrelNetwork(weights=str(tmp_path / "esrgan.pth"))
    image = torch.rand(1, 3, 16, 20)
    assert torch.equal(network(image), published(image))
    assert all(parameter.requires_grad for parameter in network.parameters())
    network(image).sum().backward()
    assert (network.num_in_ch, network.size_multiple) == (3, 4)
    assert restore_batch(network, {"lq": torch.rand(1, 3, 15, 21)}).shape == (1, 3, 30, 42)


def test_architectures_by_name():
    network = SpandrelNetwork(architecture="NAFNet", arguments={"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1]})
    assert network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    assert type(SpandrelNetwork(architecture="KBNet_s", arguments={"width": 8}).network).__name__ == "KBNet_s"


def test_what_spandrel_does_not_know_is_one_line(tmp_path):
    for arguments, message in (
        ({}, "give either weights or architecture"),
        ({"architecture": "NAFNet", "weights": "x.pth"}, "give either weights or architecture"),
        ({"architecture": "NAFnet"}, "spandrel has no architecture 'NAFnet'; did you mean 'NAFNet'"),
        ({"architecture": "NAFNet", "arguments": {"widths": 3}}, "NAFNet of spandrel with {'widths': 3}: .*widths"),
    ):
        with pytest.raises(OptionError, match=message):
            SpandrelNetwork(**arguments)
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: spandrel knows no network of these weights"):
        SpandrelNetwork(weights=str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match=r"b\.pth: no such file"):
        SpandrelNetwork(weights=str(tmp_path / "b.pth"))


def test_a_training_starts_from_published_weights(tmp_path, photographs):
    published = RRDBNet(3, 3, num_feat=16, num_block=1, num_grow_ch=32, scale=1)
    torch.save({"params_ema": published.state_dict()}, tmp_path / "esrgan.pth")
    options = {
        "name": "tuned",
        "num_gpu": 0,
        "scale": 1,
        "datasets": {
            "train": {"type": "NoisyImageDataset", "dataroot_gt": str(photographs), "gt_size": 32, "sigma": 25}
        },
        "network_g": {"type": "SpandrelNetwork", "weights": str(tmp_path / "esrgan.pth")},
        "path": {"experiments_root": str(tmp_path / "experiments")},
        "train": {
            "total_iter": 1,
            "optim_g": {"type": "Adam", "lr": 1e-4},
            "pixel_opt": {"type": "L1Loss"},
        },
        "logger": {"use_tb_logger": False},
    }
    (tmp_path / "tuned.yml").write_text(json.dumps(options))
    assert training.main(["-opt", str(tmp_path / "tuned.yml")]) == 0
    trained = read_weights(tmp_path / "experiments/tuned/models/net_g_latest.safetensors")
    before = SpandrelNetwork(weights=str(tmp_path / "esrgan.pth")).state_dict()
    assert trained.keys() == before.keys()
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    given_to_tools(tmp_path / "experiments/tuned/models/net_g_latest.safetensors", tmp_path)


def test_weights_of_basicsrs_networks_reach_tools_that_know_spandrel(tmp_path):
    block = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 1, "scale": 2}
    torch.manual_seed(0)
    network = RRDBNet(**{key: value for key, value in block.items() if key != "type"})
    Restorer(network, about=Description(block)).save(tmp_path / "net.safetensors")
    given_to_tools(tmp_path / "net.safetensors", tmp_path)


def given_to_tools(weights, folder):
    """Write weights as docs/weights.md says, and hold what spandrel makes of them against the network."""
    import spandrel

    page = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    [snippet] = re.findall(r"```python\n(from safetensors[^`]*)```", page)
    assert '"net_g_latest.safetensors"' in snippet and '"for_chainner.safetensors"' in snippet
    snippet = snippet.replace('"net_g_latest.safetensors"', "weights").replace(
        '"for_chainner.safetensors"', 'folder / "for_chainner.safetensors"'
    )
    exec(snippet, {"Restorer": Restorer, "weights": weights, "folder": folder})
    descriptor = spandrel.ModelLoader("cpu").load_from_file(folder / "for_chainner.safetensors")
    assert descriptor.architecture.name == "ESRGAN"
    image = torch.rand(1, 3, 16, 20)
    restored = Restorer.from_checkpoint(weights, device="cpu")(image)
    assert torch.allclose(descriptor(image).clamp(0, 1), restored, atol=1e-6)
