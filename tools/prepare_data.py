"""Turn a data set into LMDBs.

python tools/prepare_data.py folder --src photos --out datasets
python tools/prepare_data.py cityscapes --src cityscapes --out datasets/cityscapes --workers 8
python tools/prepare_data.py camvid --src CamVid --out datasets/camvid
python tools/prepare_data.py demo --out datasets/demo --num-train 200 --num-val 20
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("prepare")
