"""How far the semantic statistics of restored images are from those of clear ones, on unseen images.

python tools/divergence_eval.py --clean data/test_images.lmdb --sigma 25 50 --opt options/test_ffdnet.yml \
    --restored L1=experiments/l1/models/net_g_latest.safetensors \
    --restored L1+D2SM=experiments/d2sm/models/net_g_latest.safetensors \
    --extractor options/train_ffdnet_d2sm.yml --reference L1 --out results/divergence
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("divergence")
