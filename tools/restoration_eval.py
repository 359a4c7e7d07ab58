"""PSNR and SSIM of several restored image sets in one table, and pictures side by side.

python tools/restoration_eval.py --clean data/test_gt.lmdb --lq data/test_lq.lmdb --lq-name hazy --dcp \
    --restored MSBDN=results/msbdn/visualization/SOTS --restored MSBDN+D2SM=results/msbdn_d2sm/visualization/SOTS \
    --out results/dehazing
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("quality")
