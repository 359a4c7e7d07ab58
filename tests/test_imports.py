"""Imports point one way: a room may import the rooms named here and what those import, never anything above itself."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "d2sm_plugin"
#: Room -> the rooms directly below it. A partial order: rooms that are not above each other stay independent.
BELOW = {
    "errors": [],
    "version": [],
    "arguments": ["errors"],
    "compat": [],
    "argument_types": [],
    "blocks": ["errors"],
    "file_names": [],
    "custom_imports": ["registry"],
    "install_host": [],
    "cli": ["errors", "extras"],
    "files": ["errors"],
    "matlab_files": [],
    "boundary": ["errors"],
    "safe_yaml": ["errors"],
    "extras": ["errors", "install_host"],
    "registry": ["errors", "boundary"],
    "host_import": ["pipeline", "compat"],
    "weight_files": ["files", "version"],
    "weights": ["weight_files"],
    "random_guard": [],
    "scenes": ["errors"],
    "faces": ["files"],
    "statistics": ["errors"],
    "degradations": ["registry", "argument_types"],
    "features": ["registry", "weights", "extras", "argument_types"],
    "metrics": ["faces", "losses"],
    "archs": ["faces", "features", "matlab_files"],
    "loggers": ["registry", "extras", "files"],
    "data": [
        "arguments",
        "degradations",
        "extras",
        "faces",
        "files",
        "matlab_files",
        "random_guard",
        "scenes",
        "registry",
        "version",
        "blocks",
        "file_names",
        "custom_imports",
    ],
    "seg": ["data", "extras", "safe_yaml", "weights"],
    "losses": ["statistics", "features", "seg", "extras"],
    "models": ["archs", "boundary", "losses", "metrics"],
    "options": ["loggers", "models", "safe_yaml"],
    "inference": ["options"],
    "pipeline": ["options", "version"],
    "studies": ["pipeline", "inference", "cli"],
    "demo": ["studies"],
    "__main__": ["arguments", "cli", "version"],  # the modules of commands are imported by name, when they are chosen
}


def test_imports_point_one_way():
    allowed: dict[str, set[str]] = {}
    for room in TopologicalSorter(BELOW).static_order():  # raises on a circle
        allowed[room] = {room}.union(*(allowed[lower] for lower in BELOW[room]))
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue
        above = imports(file) - allowed[room]
        assert not above, f"{file}: {room} imports {', '.join(sorted(above))}, which is not below it"


def imports(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "d2sm_plugin":
            modules = [node.module] if "." in node.module else [f"d2sm_plugin.{name.name}" for name in node.names]
            rooms |= {module.split(".")[1] for module in modules}
        if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            named = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            rooms |= {named.split(".")[1]} if named.startswith("d2sm_plugin.") else set()
    return rooms


def test_no_module_asks_for_what_only_unix_has():
    """Such modules are imported where they are used, so that the package can be imported on Windows."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            assert not {"fcntl", "grp", "pwd", "resource", "termios"} & {*names, getattr(node, "module", None)}, file
