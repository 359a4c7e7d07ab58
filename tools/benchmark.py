"""Measure time, memory and arithmetic of the package's parts side by side.

python tools/benchmark.py
python tools/benchmark.py loss patches --threads 1
python tools/benchmark.py iteration precision --device cuda
python tools/benchmark.py --small --no-memory   # seconds, to see that everything runs
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.benchmark.benchmark import main

if __name__ == "__main__":
    run_tool(main)
