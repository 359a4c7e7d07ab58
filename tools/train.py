"""Train a restoration network.

python tools/train.py -opt options/train_ffdnet_d2sm.yml
python tools/train.py -opt options/train_ffdnet_d2sm.yml --auto_resume --force_yml train:total_iter=1000
torchrun --nproc_per_node=4 tools/train.py -opt options/train_ffdnet_d2sm.yml --launcher pytorch
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("train")
