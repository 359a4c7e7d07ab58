from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from d2sm_plugin import install_host
from d2sm_plugin.cli import run_tool

ROOT = Path(__file__).resolve().parents[1]

#: BasicSR's way to its version number, which ends in a KeyError from Python 3.13 on.
SETUP = """
from setuptools import setup

def get_version():
    with open("stand_in.py") as file:
        exec(compile(file.read(), "stand_in.py", "exec"))
    return locals()["__version__"]

setup(name="stand-in", version=get_version(), py_modules=["stand_in"])
"""


def test_it_runs_before_anything_is_installed():
    command = [sys.executable, "-S", "-m", "d2sm_plugin.install_host", "--help"]  # -S: the standard library alone
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "install BasicSR" in done.stdout


def test_exec_writes_into_its_caller(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", install_host.prepare_interpreters(tmp_path))
    code = (
        "def in_a_function():\n"
        "    exec('name = 1')\n"
        "    return locals()['name']\n"
        "scope, local = {}, {}\n"
        "exec('other = 2', scope)\n"
        "exec('third = 3', scope, local)\n"
        "exec('at_module_level = 4')\n"
        "print(in_a_function(), scope['other'], local['third'], at_module_level, 'other' in globals())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2", "3", "4", "False"]


def test_a_setup_that_reads_its_version_through_exec_is_built(tmp_path):
    source, interpreters, wheels = (tmp_path / name for name in ("source", "interpreters", "wheels"))
    source.mkdir()
    interpreters.mkdir()
    (source / "setup.py").write_text(SETUP)
    (source / "stand_in.py").write_text("__version__ = '7.8'\n")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--use-pep517", "--quiet")
    search = install_host.prepare_interpreters(interpreters)
    install_host.pip("wheel", *offline, "--wheel-dir", str(wheels), str(source), PYTHONPATH=search)
    assert [wheel.name for wheel in wheels.iterdir()] == ["stand_in-7.8-py3-none-any.whl"]


def test_the_search_path_of_the_user_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "theirs")
    assert install_host.prepare_interpreters(tmp_path).endswith("theirs")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ((), ["numpy>=1.17", "opencv-python", "tb-nightly"]),
        (("opencv-python-headless", "tensorboard"), ["numpy>=1.17"]),
        (("opencv-python",), ["numpy>=1.17", "opencv-python", "tb-nightly"]),
    ],
)
def test_nothing_is_put_over_another_opencv_or_tensorboard(there, expected, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=1.17", "opencv-python", "tb-nightly"])
    monkeypatch.setattr(install_host, "is_installed", there.__contains__)
    assert [name for name in install_host.requirements_of("basicsr") if name != "setuptools"] == expected


def test_a_python_without_pip_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install_host.main([]) == 2
    assert "has no pip; add it with 'python -m ensurepip'" in capsys.readouterr().err


def test_it_takes_no_arguments(capsys):
    assert install_host.main(["basicsr", "-q"]) == 2
    assert capsys.readouterr().err == "error: it takes no arguments, got basicsr -q\n"


def test_the_status_of_a_failed_pip_is_passed_on(monkeypatch, capsys):
    monkeypatch.setattr(install_host, "HOST", "no-such-package-of-this-name")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert install_host.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "command"),
    [("basicsr", "python -m d2sm_plugin.install_host"), ("lmdb", 'pip install ".[train]"'), ("mmcv", '".[seg]"')],
)
def test_a_tool_names_the_command_that_installs_what_is_missing(module, command, capsys):
    def main(arguments):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    with pytest.raises(SystemExit) as leaving:
        run_tool(main)
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert command in error


def test_any_other_missing_module_is_a_defect():
    def main(arguments):
        raise ModuleNotFoundError("No module named 'lmdb.x'", name="lmdb.x")

    with pytest.raises(ModuleNotFoundError):
        run_tool(main)
