"""PSNR, SSIM and landmark NRMSE of restored faces in one table, and pictures with the landmarks found in them.

python tools/face_eval.py --clean datasets/helen29/test_hr.lmdb --lq datasets/helen29/test_lr.lmdb \
    --landmarks datasets/helen29/test_landmarks.csv --points helen29 --alignment hourglass_helen29.pth \
    --restored DICNet=results/dicnet/visualization/helen29 \
    --restored DICNet+D2SM=results/dicnet_d2sm/visualization/helen29 \
    --out results/faces
"""

from d2sm_plugin.__main__ import run

if __name__ == "__main__":
    run("faces")
