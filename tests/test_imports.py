"""Imports point one way: a package may import those below it, never those above."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "d2sm_plugin"
#: From the top of the house to its foundations.
ORDER = [
    *(
        "compare",
        "benchmark",
        "evaluation",
        "pipeline",
        "options",
        "models",
        "inference",
        "losses",
        "seg",
        "archs",
        "data",
    ),
    *("metrics", "features", "onednn", "weights", "heatmaps", "landmarks", "registry", "safe_yaml", "cli", "errors"),
    *("compat", "version"),
]


def test_imports_point_one_way():
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for imported in imports(file):
            if imported != parts[0]:
                assert ORDER.index(parts[0]) < ORDER.index(imported), f"{file}: {parts[0]} imports {imported}"


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "d2sm_plugin":
            modules = [node.module] if "." in node.module else [f"d2sm_plugin.{name.name}" for name in node.names]
            found |= {module.split(".")[1] for module in modules}
    return found
