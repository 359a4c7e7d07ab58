"""How far the semantic statistics of restored images are from those of clear ones, on unseen images.

python tools/divergence_eval.py --clean data/test_images.lmdb --sigma 25 50 --opt options/test_ffdnet.yml \
    --restored L1=experiments/l1/models/net_g_latest.pth --restored L1+D2SM=experiments/d2sm/models/net_g_latest.pth \
    --extractor options/train_ffdnet_d2sm.yml --reference L1 --out results/divergence
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.evaluation.divergence_eval import main

if __name__ == "__main__":
    run_tool(main)
