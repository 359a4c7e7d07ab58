"""docs/security.md, point by point: what may run or unpickle, and that every reader refuses what would run."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from d2sm_plugin.archs.caffemodel import read_caffemodel
from d2sm_plugin.archs.mscnn_weights import read_mscnn_weights
from d2sm_plugin.data.prepare.face_labels import read_labels
from d2sm_plugin.errors import D2SMError
from d2sm_plugin.metrics.landmark_finder import LandmarkFinder
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.checkpoint import read_state
from d2sm_plugin.safe_yaml import parse_yaml, read_yaml
from d2sm_plugin.seg.checkpoint import read_seg_checkpoint
from d2sm_plugin.seg.classes import load_class_set
from d2sm_plugin.seg.plain_config import read_plain_config
from d2sm_plugin.studies.compare.suite import read_suite
from d2sm_plugin.studies.evaluation.semantic_views import read_views
from d2sm_plugin.weights import read_weights

PACKAGE = Path(__file__).resolve().parents[1] / "d2sm_plugin"


class Harmful:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


YAML_THAT_RUNS = b"a: !!python/object/apply:os.system ['touch harmed']\n"
PICKLE, SAVED = pickle.dumps(Harmful()), saved({"params": Harmful()})
FACES = pickle.dumps({"a": {"landmark": Harmful(), "bbox": []}})
IN_PLACE = "{" + YAML_THAT_RUNS.decode().strip() + "}"
#: Reader, name of the file, its content.
READERS = {
    "weights": (read_weights, "a.pth", SAVED),
    "weights, pickled": (read_weights, "a.pth", PICKLE),
    "weights, old pickle": (read_weights, "a.pth", pickle.dumps({"params": Harmful()}, protocol=0)),
    "training state": (lambda path: read_state(Path(path)), "a.state", SAVED),
    "segmentation weights": (read_seg_checkpoint, "a.pth", SAVED),
    "segmentation weights, pickled": (read_seg_checkpoint, "a.pth", PICKLE),
    "landmark finder": (LandmarkFinder, "a.pth", SAVED),
    "caffemodel": (read_caffemodel, "a.caffemodel", PICKLE),
    "mat": (read_mscnn_weights, "a_CL.mat", PICKLE),
    "list of faces": (read_labels, "a.pkl", PICKLE),
    "list of faces, nested": (read_labels, "a.pkl", FACES),
    "option file": (read_options, "a.yml", YAML_THAT_RUNS),
    "layer of an option file": (read_option_file, "b.yml", b"extends: a.yml\n"),
    "YAML file": (read_yaml, "a.yml", YAML_THAT_RUNS),
    "YAML text": (lambda path: parse_yaml(Path(path).read_text(), path), "a.yml", YAML_THAT_RUNS),
    "suite": (lambda path: read_suite(Path(path), []), "a.yml", YAML_THAT_RUNS),
    "extractor": (lambda path: read_views([path], "cpu"), "a.yml", YAML_THAT_RUNS),
    "extractor in place": (lambda _: read_views([IN_PLACE], "cpu"), "a.yml", YAML_THAT_RUNS),
    "class file": (load_class_set, "a.yml", YAML_THAT_RUNS),
    "class file, JSON": (load_class_set, "a.json", json.dumps({"py/reduce": ["os.system"]}).encode()),
    "config, YAML": (lambda path: read_plain_config(Path(path)), "a.yaml", YAML_THAT_RUNS),
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_runs_what_it_reads(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, file, content = READERS[name]
    Path("a.yml").write_bytes(YAML_THAT_RUNS)
    Path(file).write_bytes(content)
    with pytest.raises(D2SMError):
        read(file)
    assert not Path("harmed").exists()
    assert pickle.loads(pickle.dumps(Harmful())) == 0 and Path("harmed").exists()  # that it would have harmed


# ------------------------------------------------------------------------------------------ what the package calls

#: Call -> modules that may make it.
MAY_CALL = {
    "eval": set(),
    "exec": set(),
    "compile": set(),
    "__import__": set(),
    "os.system": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "torch.jit.load": set(),
    "np.load": set(),
    "numpy.load": set(),
    "yaml.load": {"safe_yaml.py"},
    "yaml.unsafe_load": set(),
    "yaml.full_load": set(),
    "Config.fromfile": {"seg/openmmlab.py"},  # configs in Python
    "torch.load": {"weight_files.py", "compat.py"},
    "importlib.import_module": {
        "__main__.py",  # the command's own module
        "archs/spandrel_arch.py",  # modules of spandrel's own list
        "custom_imports.py",  # what the user names
        "extras.py",
        "features/package_weights.py",
        "host_import.py",
        "metrics/torchmetrics_metric.py",  # the two packages of torchmetrics
        "models/host_models.py",
        "registry.py",
        "studies/benchmark/cases/__init__.py",
    },
}


def called(node: ast.Call) -> str:
    """The dotted name of what a call calls."""
    parts = []
    target = node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    parts.append(target.id if isinstance(target, ast.Name) else "")
    return ".".join(reversed(parts))


def test_calls_that_run_or_unpickle_stand_where_they_may():
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        if name == "install_host.py" or name.startswith("seg/configs/"):  # builds BasicSR; configs in Python
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            call = called(node)
            if call in MAY_CALL:
                assert name in MAY_CALL[call], f"{name}:{node.lineno} calls {call}"
            if call == "torch.load":
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                assert isinstance(keywords.get("weights_only"), ast.Constant) and keywords["weights_only"].value is True
            if call == "yaml.load":
                assert any(keyword.arg == "Loader" and keyword.value.id == "OptionLoader" for keyword in node.keywords)


def test_torch_is_new_enough_for_that_promise():
    text = (PACKAGE.parent / "setup.py").read_text(encoding="utf-8")
    floor = next(line for line in text.splitlines() if '"torch>=' in line).split(">=")[1].split('"')[0]
    assert tuple(map(int, floor.split("."))) >= (2, 6)  # before, weights_only could be led astray (CVE-2025-32434)
