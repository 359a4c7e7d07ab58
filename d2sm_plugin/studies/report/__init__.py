"""Reports of runs and suites: one HTML file that needs nothing else."""
