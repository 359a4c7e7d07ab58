"""PSNR and SSIM of several restored image sets in one table, and pictures side by side.

python tools/restoration_eval.py --clean data/test_gt.lmdb --lq data/test_lq.lmdb --lq-name hazy --dcp \
    --restored MSBDN=results/msbdn/visualization/SOTS --restored MSBDN+D2SM=results/msbdn_d2sm/visualization/SOTS \
    --out results/dehazing
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.evaluation.restoration_eval import main

if __name__ == "__main__":
    run_tool(main)
