"""A corpus of bad inputs over all tools: each is refused in one line, and leaves nothing unfinished."""

from __future__ import annotations

import os

import pytest
from bad_inputs import BadInput, bad_inputs, segmentation_inputs
from fuzz_material import copy_material, make_material
from fuzz_tools import Outcome, leftovers, run

pytestmark = pytest.mark.skipif(
    not hasattr(os, "mkfifo"), reason="some of the inputs are pipes, of which there are none"
)
CORPUS = bad_inputs()
#: Tools that go on after a bad picture, and name it at the end.
GOING_ON = ("restore",)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material") / "sound")


def test_corpus_is_large_and_spread_over_the_tools():
    commands = {bad.command for bad in CORPUS}
    assert len(CORPUS) >= 300
    assert commands >= {"train", "test", "restore", "quality", "prepare", "faces", "divergence", "compare", "benchmark"}
    assert len({(bad.command, bad.name) for bad in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize(
    "bad", CORPUS, ids=lambda bad: f"{bad.command}-{bad.name}".encode("ascii", "replace").decode()[:70]
)
def test_refused_in_one_line(material, tmp_path, bad: BadInput):
    folder = copy_material(material, tmp_path / "spoilt")
    outcome = run(bad.command, bad.spoil(folder), folder)
    check(outcome, bad.command)
    assert leftovers(folder) == []
    assert not (folder / "harmed").exists(), "something that the input named was run"
    if bad.command == "train" and "option" in bad.name:
        assert not (folder / "experiments").exists(), "a folder was made before the options were read"


@pytest.mark.parametrize("bad", segmentation_inputs(), ids=lambda bad: bad.name)
def test_segmentation_is_refused_in_one_line(material, tmp_path, bad: BadInput):
    pytest.importorskip("mmseg")
    test_refused_in_one_line(material, tmp_path, bad)


def check(outcome: Outcome, command: str) -> None:
    """The exit status says that something was wrong, and one line what; a picture that is left out has a line each."""
    assert not outcome.hung and outcome.crash is None, outcome.crash
    assert outcome.status in ((1, 2) if command in GOING_ON else (2,)), outcome.text
    lines = outcome.error_lines()
    assert lines and (outcome.status == 1 or len(lines) == 1), outcome.text
    assert all(20 < len(line) < 2000 for line in lines)
    assert "Traceback" not in outcome.text
