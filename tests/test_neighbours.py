"""The examples of docs/neighbours.md run, in short loops that stand in for projects that are not installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_core_without_host import hide, python
from torch.nn.functional import l1_loss

from d2sm_plugin.losses import D2SMLoss
from d2sm_plugin.registry import register_in

PAGE = Path(__file__).resolve().parents[1] / "docs" / "neighbours.md"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S))
EXAMPLES = {title: re.findall(r"```python\n(.*?)```", text, flags=re.S) for title, text in SECTIONS.items()}
TINY = {"extractor": {"type": "TimmFeatures", "model": "test_resnet", "weights": None}, "queue": 8}


def example(title: str) -> str:
    """The example of a section, with a small network in place of the one that it loads."""
    (code,) = EXAMPLES[title]
    return code.replace('"tf_efficientnet_lite0"', "__import__('timm').create_model('test_resnet')")


@pytest.fixture
def loader():
    torch.manual_seed(0)
    clean = torch.rand(8, 3, 64, 64)
    data = torch.utils.data.TensorDataset((clean + 0.1 * torch.randn_like(clean)).clamp(0, 1), clean)
    return torch.utils.data.DataLoader(data, batch_size=4)


def run(title: str, **names) -> dict:
    exec(compile(example(title), title, "exec"), names)
    return names


def test_examples_are_short():
    for title, examples in EXAMPLES.items():
        assert len(examples) == 1 and examples[0].count("\n") <= 30, title


def test_plain_pytorch(loader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("Plain PyTorch", loader=loader)
    state = torch.load("checkpoint.pth", weights_only=True)
    assert state["d2sm"]["queue.filled"] == 8 and names["d2sm"].last["divergence"] > 0


@pytest.mark.slow
def test_torch_compile(loader):
    names = run("torch.compile", loader=loader)
    assert names["network"].weight.grad.abs().sum() > 0 and names["d2sm"].last["queue_fill"] == 8
    torch.compiler.reset()


def test_lightning(loader, tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs the package lightning, of the extra [dev]")
    restorer = run("Lightning", __name__="example")["Restorer"]
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    first = restorer()
    trainer = lightning.Trainer(max_epochs=1, default_root_dir=tmp_path, **options)
    trainer.fit(first, loader)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert saved["d2sm.queue.filled"] == 8 and not any("extractor" in name for name in saved)
    second = restorer()
    second.d2sm.extractor.load_state_dict(first.d2sm.extractor.state_dict())
    trainer = lightning.Trainer(max_epochs=2, default_root_dir=tmp_path, **options)
    trainer.fit(second, loader, ckpt_path=tmp_path / "one.ckpt")
    assert second.d2sm.last["queue_fill"] == 16


def test_accelerate(loader, tmp_path, monkeypatch):
    pytest.importorskip("accelerate", reason="needs the package accelerate, of the extra [dev]")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.chdir(tmp_path)
    names = run("accelerate", loader=loader)
    d2sm = names["d2sm"]
    assert d2sm.last["queue_fill"] == 8
    saved = {name: value.clone() for name, value in d2sm.state_dict().items()}
    d2sm(torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64))
    assert len(d2sm.queue) == 12
    names["accelerator"].load_state("checkpoint")
    torch.testing.assert_close(dict(d2sm.state_dict()), saved)


def test_a_folder_named_basicsr(tmp_path):
    """The stand-in finds objectives as NAFNet does, by name in its module of losses."""
    losses = tmp_path / "basicsr" / "models" / "losses"
    losses.mkdir(parents=True)
    (losses / "__init__.py").write_text(example("NAFNet, Restormer and others with a folder `basicsr`"))
    code = f"""
import importlib, torch
block = {{"type": "L1D2SMLoss", **{TINY!r}, "loss_weight": 0.5}}
module = importlib.import_module("basicsr.models.losses")
assert module.__file__.startswith({str(tmp_path)!r})
criterion = getattr(module, block.pop("type"))(**block).to("cpu")
gt = torch.rand(4, 3, 64, 64)
restored = (gt + 0.1).requires_grad_()
value = criterion(restored, gt)
value.backward()
torch.testing.assert_close(value.item(), 0.1 + 0.5 * criterion.d2sm.last["divergence"].item(), rtol=1e-4, atol=1e-6)
print(criterion.d2sm.last["queue_fill"])
"""
    assert python(hide("basicsr") + code, tmp_path, tmp_path).strip() == "4"


class StandInRegistry:
    """A registry as traiNNer-redux has it: names in any case."""

    def __init__(self):
        self.table = {}

    def register(self, obj=None):
        if obj is None:
            return self.register
        assert obj.__name__.lower() not in self.table
        self.table[obj.__name__.lower()] = obj
        return obj

    def get(self, name):
        return self.table[name.lower()]

    def __contains__(self, name):
        return name.lower() in self.table


def test_a_trainer_that_multiplies_by_the_weight(monkeypatch):
    registry = StandInRegistry()
    for name in ("traiNNer", "traiNNer.utils", "traiNNer.utils.registry"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["traiNNer.utils.registry"].LOSS_REGISTRY = registry
    run("traiNNer-redux and neosr")
    assert "D2SMLoss" in register_in(registry)
    torch.manual_seed(1)
    clear = torch.rand(4, 3, 64, 64)
    restored = clear + 0.1 * torch.randn_like(clear).clamp(-0.5, 0.5)
    totals = {}
    for kind, multiplies in (("unweightedd2smloss", True), ("D2SMLoss", False)):
        torch.manual_seed(2)  # the same random extractor
        loss = registry.get(kind)(loss_weight=0.25, **TINY)
        value = loss(restored, clear)
        totals[kind] = loss.loss_weight * value if multiplies else value
    torch.manual_seed(2)
    expected = 0.25 * D2SMLoss(**TINY)(restored, clear)
    for total in totals.values():
        torch.testing.assert_close(total, expected)


def test_kair(monkeypatch, tmp_path):
    class ModelPlain:
        """The parts of KAIR's model that training meets."""

        def __init__(self, opt):
            self.opt, self.opt_train, self.device, self.save_dir = opt, opt["train"], "cpu", str(tmp_path)
            self.netG = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.define_loss()

        def define_loss(self):
            self.G_lossfn, self.G_lossfn_weight = torch.nn.L1Loss(), 2.0

        def save(self, iter_label):
            torch.save({}, tmp_path / f"{iter_label}_G.pth")

        def optimize_parameters(self, low, high):
            restored = self.netG(low)
            loss = self.G_lossfn_weight * self.G_lossfn(restored, high)
            loss.backward()
            return loss, restored

    monkeypatch.setitem(sys.modules, "models", ModuleType("models"))
    module = ModuleType("models.model_plain")
    module.ModelPlain = ModelPlain
    monkeypatch.setitem(sys.modules, "models.model_plain", module)
    names = run("KAIR", __name__="example")
    opt = {"train": {"d2sm": {**TINY, "loss_weight": 0.5}}, "path": {}}
    model, high = names["ModelD2SM"](opt), torch.rand(4, 3, 64, 64)
    value, restored = model.optimize_parameters(high * 0.9, high)
    torch.testing.assert_close(value, 2 * (l1_loss(restored, high) + 0.5 * model.d2sm.last["divergence"].float()))
    model.save(7)
    opt["path"]["pretrained_d2sm"] = str(tmp_path / "7_d2sm.pth")
    assert len(names["ModelD2SM"](opt).d2sm.queue) == 4
