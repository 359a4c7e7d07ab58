from __future__ import annotations

import argparse
import sys

import pytest
import yaml
from basicsr.utils.registry import ARCH_REGISTRY as HOST_REGISTRY
from test_reader import RAW

import d2sm_plugin  # noqa: F401
from d2sm_plugin import custom_imports
from d2sm_plugin.custom_imports import add_custom_import, import_custom, located, with_command_line
from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.reader import read_options, validate_options
from d2sm_plugin.registry import ARCH_REGISTRY

CODE = """
from torch import nn
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class {name}(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)
"""


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(custom_imports, "_on_command_line", [])


def write(folder, name, text=CODE):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text.format(name=name.title().replace("_", "")), encoding="utf-8")
    return path


def option_file(folder, **changes):
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump({**RAW, **changes}, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "entry"),
    [("beside_one", "beside_one"), ("beside_two", "beside_two.py"), ("beside_three", "./beside_three.py")],
)
def test_a_file_beside_the_option_file(tmp_path, monkeypatch, name, entry):
    write(tmp_path / "options", name)
    monkeypatch.chdir(tmp_path)  # not where the option file is
    arch = name.title().replace("_", "")
    options = read_options(option_file(tmp_path / "options", custom_imports=[entry], network_g={"type": arch}))
    assert options["custom_imports"] == [str(tmp_path / "options" / f"{name}.py")]
    assert arch in ARCH_REGISTRY
    validate_options({**RAW, "custom_imports": options["custom_imports"]})  # a second time is harmless


def test_a_module_of_the_working_directory_and_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "of_cwd")
    write(tmp_path / "elsewhere", "__init__", "from own_package.inner import InPackage").parent.rename("own_package")
    write(tmp_path / "own_package", "inner", CODE.replace("{name}", "InPackage"))
    validate_options({**RAW, "custom_imports": ["of_cwd", "own_package"], "network_g": {"type": "OfCwd"}})
    validate_options({**RAW, "custom_imports": ["./own_package/"], "network_g": {"type": "InPackage"}})
    assert located("of_cwd", tmp_path / "elsewhere") == "of_cwd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", r"bad\.py: cannot be imported \(SyntaxError: invalid syntax"),
        ("import nothing_there", r"bad\.py: cannot be imported \(ModuleNotFoundError: No module .*, line 1\)"),
        ("\n\n1 / 0", r"bad\.py: cannot be imported \(ZeroDivisionError: division by zero, line 3\)"),
        ("raise SystemExit(0)", r"bad\.py: cannot be imported \(SystemExit: 0, line 1\)"),
        (
            CODE.replace("{name}", "FFDNet"),
            r"bad\.py: 'FFDNet' is the name of a class of d2sm_plugin; give",
        ),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, text, message, monkeypatch):
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    taken = {name: obj for name, obj in HOST_REGISTRY._obj_map.items() if name != "FFDNet"}  # nobody asked for it yet
    monkeypatch.setattr(HOST_REGISTRY, "_obj_map", taken)
    path = tmp_path / "bad.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message) as error:
        import_custom(str(path))
    assert "\n" not in str(error.value)


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for entry, message in (
        ("no_such_module", "no_such_module: cannot be imported .ModuleNotFoundError"),
        ("no_such_file.py", "no_such_file.py: no such Python file"),
        ("./", "no such Python file or package"),
        (str(write(tmp_path, "json", "")), "a module 'json' exists already"),
    ):
        with pytest.raises(OptionError, match=f"custom_imports: .*{message}"):
            validate_options({**RAW, "custom_imports": [entry]})
    for value in ("my_networks", [5], {"a": 1}):
        with pytest.raises(OptionError, match=r"custom_imports(\.0)?: expected a (list|text), got"):
            validate_options({**RAW, "custom_imports": value})


def test_what_the_command_line_imports_goes_with_the_options(tmp_path):
    path = write(tmp_path, "on_command_line")
    parser = argparse.ArgumentParser()
    add_custom_import(parser)
    parser.add_argument("files", nargs="*")
    assert vars(parser.parse_args(["--custom-import", str(path), "a", "b"])) == {"files": ["a", "b"]}
    options = validate_options({**RAW, "network_g": {"type": "OnCommandLine"}})
    assert options["custom_imports"] == [str(path)]
    assert with_command_line(options)["custom_imports"] == [str(path)]
    with pytest.raises(OptionError, match=r"--custom-import: .*nowhere\.py: no such Python file"):
        parser.parse_args(["--custom-import", "nowhere.py"])
