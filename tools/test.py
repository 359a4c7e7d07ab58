"""Restore and measure test sets.

python tools/test.py -opt options/test_ffdnet.yml
python tools/test.py -opt options/test_ffdnet.yml --force_yml path:pretrain_network_g=ffdnet_color.pth
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("test")
