"""What an installation asks for: a core without the host, and a way around a second OpenCV."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import setuptools

from d2sm_plugin.errors import DependencyError
from d2sm_plugin.extras import EXTRA_OF, import_extra

ROOT = Path(__file__).resolve().parents[1]
#: Modules whose package has another name.
PACKAGES = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
}
PACKAGES |= {"pywt": "pywavelets", "mmseg": "onedl-mmsegmentation", "mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv"}


@pytest.fixture
def wanted(monkeypatch) -> dict[str, set[str]]:
    """Names of the packages that each extra of setup.py asks for, and those of the core under ``""``."""
    received: dict = {}
    monkeypatch.setattr(setuptools, "setup", received.update)
    runpy.run_path(str(ROOT / "setup.py"))
    asked = {"": received["install_requires"], **received["extras_require"]}
    return {extra: {re.match(r"[\w-]+", item).group().lower() for item in items} for extra, items in asked.items()}


def test_the_core_asks_for_no_host(wanted):
    assert wanted[""] == {"torch", "torchvision", "timm", "numpy", "pyyaml", "safetensors"}


def test_the_headless_extra_asks_for_one_opencv(wanted):
    """BasicSR, mmcv and mmsegmentation ask for opencv-python themselves."""
    assert wanted["train"] - wanted["headless"] == {"opencv-python", "basicsr"}
    assert wanted["headless"] - wanted["train"] == {"opencv-python-headless"}
    assert "opencv-python-headless" not in wanted["all"]
    apart = {"", "all", "headless", "wandb", "mlflow", "dev", "docs"}
    assert wanted["all"] == set().union(*(wanted[extra] for extra in set(wanted) - apart))


@pytest.mark.parametrize("module", EXTRA_OF)
def test_the_extra_that_a_message_names_holds_the_package(wanted, module):
    package = PACKAGES.get(module, module.replace("_", "-")).lower()
    assert package in wanted[EXTRA_OF[module]]


def test_a_missing_package_is_one_line_with_the_command():
    with pytest.raises(
        DependencyError,
        match=r'^LPIPSLoss needs lpips\.absent, .*; get it with: pip install "\.\[objectives\]" in a clone',
    ):
        import_extra("lpips.absent", "LPIPSLoss")
