"""Measure time, memory and arithmetic of the package's parts side by side.

python tools/benchmark.py
python tools/benchmark.py loss patches --threads 1
python tools/benchmark.py iteration precision --device cuda
python tools/benchmark.py --small --no-memory   # seconds, to see that everything runs
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("benchmark")
