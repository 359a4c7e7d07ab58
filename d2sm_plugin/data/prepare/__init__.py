"""Turning data sets into LMDBs: one module for each subcommand of ``tools/prepare_data.py``."""
