"""Restore and measure test sets.

python tools/test.py -opt options/test_ffdnet.yml
python tools/test.py -opt options/test_ffdnet.yml --force_yml path:pretrain_network_g=ffdnet_color.pth
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.pipeline.testing import main

if __name__ == "__main__":
    run_tool(main)
