"""VGG16 with an FCN head for the 11 classes of CamVid: a judge that is no relative of HRNet and EfficientNet.

Starts from ImageNet, as ``fcn_lite2_camvid11``, whose data, crops and schedule it takes. Trains with mmseg: see
docs/segmentation.md.
"""

_base_ = ["./fcn_lite2_camvid11.py"]

model = {
    "backbone": {
        "_delete_": True,
        "type": "TIMMBackbone",
        "model_name": "vgg16",
        "pretrained": False,
        "out_indices": (2, 3, 4),
    },
    "decode_head": {"in_channels": (256, 512, 512), "in_index": (0, 1, 2)},
}
optim_wrapper = {"optimizer": {"lr": 1e-4}}
