#!/usr/bin/env python
"""Train the small segmentation network of the embedded default on generated street scenes.

python tools/train_demo_segmentor.py --out hrnet_tiny_street_scenes.pth
python tools/train_demo_segmentor.py --out quick.pth --scenes 100 --iterations 200 --val-scenes 10
"""

import d2sm_plugin  # noqa: F401  # mends the host
from d2sm_plugin.cli import run_tool
from d2sm_plugin.demo.train_segmentor import main

if __name__ == "__main__":
    run_tool(main)
