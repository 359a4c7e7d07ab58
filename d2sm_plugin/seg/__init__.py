"""Segmentation of restored images with mmsegmentation (the ``[seg]`` extra)."""
