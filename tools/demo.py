"""The main job on generated scenes, from data to a table and pictures; `make demo` runs it.

python tools/demo.py --out demo_output
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("demo")
