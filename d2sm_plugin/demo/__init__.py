"""The embedded demonstration: its run, and its small segmentation network with training and weights."""
