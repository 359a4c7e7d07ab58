"""Side-by-side measurements of time, memory and arithmetic; see ``tools/benchmark.py``."""
