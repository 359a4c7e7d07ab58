"""Frozen semantic feature extractors."""
