"""Train a restoration network.

python tools/train.py -opt options/train_ffdnet_d2sm.yml
python tools/train.py -opt options/train_ffdnet_d2sm.yml --auto_resume --force_yml train:total_iter=1000
torchrun --nproc_per_node=4 tools/train.py -opt options/train_ffdnet_d2sm.yml --launcher pytorch
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.pipeline.train import main

if __name__ == "__main__":
    run_tool(main)
