from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, executable: str = sys.executable, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([executable, "-c", code], capture_output=True, text=True, check=False, **kwargs)


def test_basicsr_imports_after_the_plugin():
    done = python("import d2sm_plugin, basicsr; print(len(basicsr.models.MODEL_REGISTRY.keys()))", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


@pytest.mark.slow
def test_plain_pip_install_in_a_clean_environment(tmp_path):
    """A new environment, the package registry, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    executable = str(tmp_path / "venv" / "bin" / "python")
    pip = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "pip", "setuptools", "wheel"], check=True)
    subprocess.run([*pip, "torch", "torchvision"], check=True)
    subprocess.run([executable, "-m", "d2sm_plugin.install_host"], cwd=ROOT, check=True)
    host = next((tmp_path / "venv" / "lib").glob("python*/site-packages/basicsr"))
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in host.rglob("*.py")}
    subprocess.run([*pip, str(ROOT)], check=True)
    code = (
        "import d2sm_plugin\n"
        "from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY\n"
        "from d2sm_plugin.demo.segmentor import DEMO_CHECKPOINT\n"
        "assert 'D2SMLoss' in LOSS_REGISTRY and 'D2SMModel' in MODEL_REGISTRY and DEMO_CHECKPOINT.is_file()\n"
        "print(d2sm_plugin.__version__, d2sm_plugin.__file__)\n"
    )
    done = python(code, executable, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in host.rglob("*.py")} == before
