from __future__ import annotations

from pathlib import Path

from d2sm_plugin.options.reference import option_reference


def test_the_reference_in_docs_is_up_to_date():
    written = Path(__file__).resolve().parents[2] / "docs" / "options.md"
    assert written.read_text(encoding="utf-8") == option_reference(), "run python tools/write_option_reference.py"
