"""Frozen layers in forms that are faster on a CPU, equal but for rounding."""
