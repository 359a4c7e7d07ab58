"""Variables, arguments and functions are named by what they hold, not by pronouns."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRONOUNS = {
    *("it", "them", "they", "this", "that", "these", "those", "one", "ones", "others", "both", "each", "some", "same"),
    *("own", "ours", "theirs", "mine", "given", "found", "what", "which", "thing", "things", "something", "everything"),
}


def bound(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of whatever is bound to a name."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def test_no_pronoun_is_a_name():
    pronouns = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for folder in ("d2sm_plugin", "tools", "tests")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line, name in bound(ast.parse(file.read_text(encoding="utf-8")))
        if name.strip("_") in PRONOUNS
    ]
    assert not pronouns, "\n".join(pronouns)
