"""t-SNE of the semantic features of noisy, restored and clear images, with scores of how well they mix.

python tools/plot_tsne.py --clean data/test_images.lmdb --sigma 25 --opt options/test_ffdnet.yml \
    --restored L1=experiments/l1/models/net_g_latest.safetensors \
    --restored L1+D2SM=experiments/d2sm/models/net_g_latest.safetensors \
    --extractor options/train_ffdnet_d2sm.yml --lines --out results/tsne
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("tsne")
