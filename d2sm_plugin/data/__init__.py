"""Datasets (``*_dataset.py``), the LMDB store, noise and the preparation of data."""
