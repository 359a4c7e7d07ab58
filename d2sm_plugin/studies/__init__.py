"""Comparisons, evaluations and benchmarks: an optional wing that nothing else in the package needs."""
