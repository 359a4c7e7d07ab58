#!/bin/sh
# What docs/speed.md leaves open: run once on a machine with a CUDA GPU. Each case has its baseline in the same run.
set -e
d2sm benchmark perceptual loss queue patches recommended precision compile scaling --device cuda --no-memory
d2sm benchmark paper --device cuda
d2sm benchmark --launches
