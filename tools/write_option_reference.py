"""Write docs/options.md from the schema of option files.

python tools/write_option_reference.py
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.options.reference import main

if __name__ == "__main__":
    run_tool(main)
