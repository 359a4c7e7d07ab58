"""The console command ``d2sm`` and the scripts in ``tools/``."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from d2sm_plugin.__main__ import COMMANDS, main
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.version import __version__

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
GUIDE = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")


def leave(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_help_and_version(capsys):
    assert leave(["--help"]) == leave([]) == 0
    text = capsys.readouterr().out
    assert text.count("usage: d2sm") == 2
    assert all(f"  {name} " in text and command.summary in text for name, command in COMMANDS.items())
    assert leave(["--version"]) == 0
    assert capsys.readouterr().out == f"d2sm {__version__}\n"
    assert leave(["--nonsense"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --nonsense; d2sm --help says what there is\n"


def test_help_waits_for_no_module_of_a_command():
    code = "import sys\nfrom d2sm_plugin.__main__ import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(run.stdout.splitlines()[-1].split())
    heavy = {f"d2sm_plugin.{command.module.split('.')[0]}" for command in COMMANDS.values() if "." in command.module}
    assert "d2sm_plugin.__main__" in imported
    assert not imported & {"torch", "numpy", "yaml", "basicsr", *heavy}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_takes(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["d2sm"])
    assert leave([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: d2sm {name} ")


def test_arguments_reach_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["d2sm"])
    assert leave(["train", "-opt", "nowhere.yml"]) == 2
    assert capsys.readouterr().err == "error: nowhere.yml: no such option file\n"
    assert leave(["options", "list", "demo_base"]) == 0
    assert capsys.readouterr().out.startswith("demo_base")


def test_a_misspelt_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["d2sm"])
    assert leave(["trian"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: d2sm: no command 'trian'; did you mean 'train'? known: benchmark,"
    )


def test_any_character_can_be_printed():
    code = "from d2sm_plugin.cli import run_tool; run_tool(lambda argv: print('σ = 25'))"
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}  # as on Windows, where output goes to a file
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert run.stdout.strip() == b"? = 25"


@pytest.mark.parametrize("tool", sorted(TOOLS.glob("*.py")), ids=lambda tool: tool.stem)
def test_every_tool_says_what_it_takes(tool, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tool), run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {tool.name} ")


def test_the_guide_names_every_command_and_its_script():
    rows = dict(re.findall(r"^\| `d2sm ([a-z-]+)` \| (?:`tools/(\w+)\.py` )?\|", GUIDE, flags=re.MULTILINE))
    assert set(rows) == set(COMMANDS)
    for name, script in rows.items():
        assert not script or f'run("{name}")' in (TOOLS / f"{script}.py").read_text(encoding="utf-8")


def test_the_guides_own_option_file_is_valid(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)
    (tmp_path / "mine.yml").write_text(example, encoding="utf-8")
    options = read_options(tmp_path / "mine.yml")
    assert list(options["datasets"]) == ["train"]
    assert options["train"]["d2sm_opt"]["queue"] == {"type": "QueueSampler", "size": 1024}


def test_every_command_is_a_module_with_a_main():
    for command in COMMANDS.values():
        assert callable(importlib.import_module(f"d2sm_plugin.{command.module}").main)
