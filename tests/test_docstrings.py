"""Docstrings name their thing in the first words."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "d2sm_plugin"
QUESTIONS = {"What", "Whether", "How", "Which", "Where", "Are", "Is"}


def test_no_docstring_opens_with_a_question():
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                first = (ast.get_docstring(node) or "-").split()[0]
                assert first not in QUESTIONS, (
                    f"{file}:{getattr(node, 'lineno', 1)}: the docstring opens with '{first}'"
                )
