"""How well a segmentation network reads restored images: mIoU, aAcc, mAcc, PSNR and IoU by class in one table.

python tools/seg_eval.py --labels data/val_labels.lmdb --clean data/val_images.lmdb \
    --config fcn_hr48_4xb2-160k_cityscapes-512x1024 --checkpoint fcn_hr48_cityscapes.pth --classes cityscapes \
    --restored L1=results/ffdnet_l1/visualization/val --restored L1+D2SM=results/ffdnet_d2sm/visualization/val \
    --out results/segmentation

python tools/seg_eval.py --labels data/val_labels.lmdb --clean data/val_images.lmdb \
    --config fcn_hr48_4xb2-160k_cityscapes-512x1024 --checkpoint fcn_hr48_cityscapes.pth \
    --opt options/test_ffdnet.yml --restoration-checkpoint ffdnet_color.pth --sigma 25 35 50
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("seg-eval")
