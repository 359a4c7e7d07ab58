"""The core imports and runs on torch, torchvision, timm and numpy alone, and beside any folder called basicsr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: What the core has to do without; huggingface_hub, which timm requires, brings tqdm and filelock.
HIDDEN = (
    "basicsr",
    "cv2",
    "lmdb",
    "scipy",
    "skimage",
    "matplotlib",
    "pydantic",
    "tabulate",
    "mmseg",
    "mmengine",
    "mmcv",
)


def hide(*names: str) -> str:
    """Code after which these modules are found outside of site-packages only, as where they are not installed."""
    return f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in {names!r}:
            path = [folder for folder in sys.path if not folder.endswith("-packages")]
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


STEP = """
import torch
from d2sm_plugin.losses import D2SMLoss
extractor = {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}
loss = D2SMLoss(extractor, queue={"type": "QueueSampler", "size": 8})
clear = torch.rand(4, 3, 64, 64)
restored = (clear + 0.1 * torch.randn_like(clear)).requires_grad_()
loss(restored, clear).backward()
assert restored.grad.abs().sum() > 0
"""


def python(code: str, cwd: Path, *paths: Path) -> str:
    search = os.pathsep.join(map(str, (*paths, ROOT)))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:d2sm_plugin", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_runs_where_nothing_else_is_installed(tmp_path):
    code = """
import importlib, pkgutil
import d2sm_plugin
for name in ("statistics", "features", "losses", "archs"):
    package = importlib.import_module(f"d2sm_plugin.{name}")
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)
from d2sm_plugin.registry import ARCH_REGISTRY, LOSS_REGISTRY
assert {"D2SMLoss", "SSIMLoss", "SegmentationLoss"} <= set(LOSS_REGISTRY.keys()) and "FFDNet" in ARCH_REGISTRY
"""
    python(hide(*HIDDEN) + code + STEP, tmp_path)


def test_importing_the_losses_imports_neither_host_nor_networks(tmp_path):
    code = f"""
import sys
import d2sm_plugin.losses
heavy = {{*{HIDDEN!r}, "torchvision", "timm", "torch._dynamo"}}
print(sorted(heavy & set(sys.modules)))
"""
    assert python(code, tmp_path).strip() == "[]"


@pytest.fixture
def foreign(tmp_path):
    """A project with a folder ``basicsr`` of its own and no ``__init__.py`` in it, as older forks of BasicSR have."""
    models = tmp_path / "project" / "basicsr" / "models"
    models.mkdir(parents=True)
    (models / "nafnet.py").write_text("from d2sm_plugin.losses import D2SMLoss\nNAME = 'theirs'\n")
    return tmp_path / "project"


def test_a_project_with_its_own_basicsr_keeps_it(foreign):
    code = """
import d2sm_plugin
from basicsr.models.nafnet import NAME, D2SMLoss
import basicsr
assert NAME == "theirs" and D2SMLoss.__module__.startswith("d2sm_plugin."), NAME
assert not hasattr(basicsr, "__version__") and all("project" in path for path in basicsr.__path__)
print(sorted(name for name in sys.modules if name.split(".")[0] == "basicsr"))
"""
    actual = python(hide("basicsr") + code, foreign, foreign)
    assert actual.strip() == "['basicsr', 'basicsr.models', 'basicsr.models.nafnet']"


def test_the_losses_leave_an_installed_basicsr_alone(foreign):
    code = STEP + "import sys; assert not any(name.split('.')[0] == 'basicsr' for name in sys.modules)"
    python(code, foreign, foreign)
