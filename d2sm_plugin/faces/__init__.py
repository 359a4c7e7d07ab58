"""Landmarks, heatmaps, their tables and pictures."""
