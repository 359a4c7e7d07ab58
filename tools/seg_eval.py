"""How well a segmentation network reads restored images: mIoU, aAcc, mAcc, PSNR and IoU by class in one table.

python tools/seg_eval.py --labels data/val_labels.lmdb --clean data/val_images.lmdb \
    --config fcn_hr48_4xb2-160k_cityscapes-512x1024 --checkpoint fcn_hr48_cityscapes.pth --classes cityscapes \
    --restored L1=results/ffdnet_l1/visualization/val --restored L1+D2SM=results/ffdnet_d2sm/visualization/val \
    --out results/segmentation

python tools/seg_eval.py --labels data/val_labels.lmdb --clean data/val_images.lmdb \
    --config fcn_hr48_4xb2-160k_cityscapes-512x1024 --checkpoint fcn_hr48_cityscapes.pth \
    --opt options/test_ffdnet.yml --restoration-checkpoint ffdnet_color.pth --sigma 25 35 50
"""

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.evaluation.seg_eval import main

if __name__ == "__main__":
    run_tool(main)
