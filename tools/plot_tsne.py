"""t-SNE of the semantic features of noisy, restored and clear images, with scores of how well they mix.

python tools/plot_tsne.py --clean data/test_images.lmdb --sigma 25 --opt options/test_ffdnet.yml \
    --restored L1=experiments/l1/models/net_g_latest.pth --restored L1+D2SM=experiments/d2sm/models/net_g_latest.pth \
    --extractor options/train_ffdnet_d2sm.yml --lines --out results/tsne
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.evaluation.tsne_plot import main

if __name__ == "__main__":
    run_tool(main)
