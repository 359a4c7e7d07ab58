"""Run a suite: variants of one training, several seeds each, then tables, curves and pictures side by side.

python tools/compare.py options/suites/table1_camvid.yml --out comparison --jobs 2
python tools/compare.py options/suites/table1_camvid.yml --out comparison --dry-run
python tools/compare.py options/suites/table1_camvid.yml --out comparison --only L1 "L1 + D2SM" --seeds 0 --report-only
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.compare.compare import main

if __name__ == "__main__":
    run_tool(main)
