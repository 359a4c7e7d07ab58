"""What the guide to faces names exists, and its commands are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from d2sm_plugin.data.prepare.prepare_data import build_parser
from d2sm_plugin.faces.landmarks import IBUG68, POINT_SETS
from d2sm_plugin.metrics.nrmse_metric import REPORTED, normalisers_of
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.studies.evaluation.face_eval import main as face_eval

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "faces.md").read_text(encoding="utf-8")


def commands(tool: str) -> list[list[str]]:
    """Arguments of every call of a tool in the guide's shell blocks."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", GUIDE, flags=re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    return [line[2:] for line in lines if line[:2] == ["python", f"tools/{tool}.py"]]


def test_option_files_exist():
    named = set(re.findall(r"`(?:options/)?(\w+\.yml)`", GUIDE))
    assert named and all((ROOT / "options" / name).is_file() for name in named)


def test_preparations_are_understood():
    assert len(commands("prepare_data")) >= 5
    for arguments in commands("prepare_data"):
        assert build_parser().parse_args(arguments).size == 128


@pytest.mark.parametrize("tool", ["train", "test"])
def test_runs_are_understood(tool):
    assert commands(tool)
    for arguments in commands(tool):
        file, overrides = arguments[1], arguments[3:]
        read_options(ROOT / file, is_train=tool == "train", force=overrides)


def test_comparisons_are_understood(capsys):
    assert commands("face_eval")
    for arguments in commands("face_eval"):
        with pytest.raises(SystemExit) as stopped:
            face_eval([*arguments, "--help"])
        assert stopped.value.code == 0
        options = capsys.readouterr().out
        assert all(word.split("=")[0] in options for word in arguments if word.startswith("--"))


def test_normalisers_and_sets_are_named():
    assert all(f"`{name}`" in GUIDE for name in (*normalisers_of(IBUG68), *POINT_SETS))
    assert re.search(rf"`{REPORTED}` \|.*\| reported here", GUIDE)
