"""The main job on generated scenes, from data to a table and pictures; `make demo` runs it.

python tools/demo.py --out demo_output
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.demo.run import main

if __name__ == "__main__":
    run_tool(main)
