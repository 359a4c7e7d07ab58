"""Restore one's own pictures with a trained network.

python tools/inference.py -i photos -o restored --network FFDNet --checkpoint ffdnet_color.pth --sigma 25
python tools/inference.py -i photos -o restored -opt options/train_ffdnet_d2sm.yml \
    --checkpoint experiments/train_ffdnet_d2sm_cityscapes/models/net_g_latest.safetensors --sigma estimate --tile 1024
python tools/inference.py -i frame.png -o restored --network CBDNet --network-args layout=port --checkpoint cbdnet.pth
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("restore")
