"""Write docs/options.md and the JSON schemas of option files and suites from what checks them.

python tools/write_option_reference.py
"""

from collections.abc import Sequence
from pathlib import Path

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.arguments import Parser
from d2sm_plugin.cli import run_tool
from d2sm_plugin.files import write_whole
from d2sm_plugin.options.json_schema import option_schema, schema_text
from d2sm_plugin.options.reference import option_reference
from d2sm_plugin.studies.compare.suite_schema import suite_schema

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the three files."""
    Parser(description="Write docs/options.md, options/schema.json and options/suites/schema.json.").parse_args(argv)
    write_whole(ROOT / "docs" / "options.md", option_reference())
    write_whole(ROOT / "options" / "schema.json", schema_text(option_schema()))
    write_whole(ROOT / "options" / "suites" / "schema.json", schema_text(suite_schema()))
    return 0


if __name__ == "__main__":
    run_tool(main)
