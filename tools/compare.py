"""Run a suite: variants of one training, several seeds each, then tables, curves and pictures side by side.

python tools/compare.py options/suites/table1_camvid.yml --out comparison --jobs 2
python tools/compare.py options/suites/table1_camvid.yml --out comparison --dry-run
python tools/compare.py options/suites/table1_camvid.yml --out comparison --only L1 "L1 + D2SM" --seeds 0 --report-only
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("compare")
