"""EfficientNet-Lite2 with an FCN head for the 11 classes of CamVid: a judge that a CPU trains in a quarter of an hour.

Its ImageNet weights come from the package registry; data, classes and runtime are those of ``fcn_hr18s_camvid11``.
Trains with mmseg: see docs/segmentation.md.
"""

_base_ = ["./fcn_hr18s_camvid11.py"]

crop_size = (192, 256)

model = {
    "data_preprocessor": {"size": crop_size},
    "backbone": {
        "_delete_": True,
        "type": "TIMMBackbone",
        "model_name": "tf_efficientnet_lite2",
        "pretrained": False,
        "out_indices": (1, 2, 3, 4),
    },
    "decode_head": {"in_channels": (24, 48, 120, 352), "channels": 128, "norm_cfg": {"type": "BN"}},
}

train_pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations"},
    {"type": "RandomResize", "scale": (480, 360), "ratio_range": (0.75, 1.5), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": crop_size, "cat_max_ratio": 0.75, "ignore_index": 11},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    {"type": "PackSegInputs"},
]
train_dataloader = {
    "batch_size": 4,
    "num_workers": 0,
    "persistent_workers": False,
    "dataset": {"pipeline": train_pipeline},
}
optim_wrapper = {"optimizer": {"_delete_": True, "type": "AdamW", "lr": 1e-3, "weight_decay": 1e-4}}
param_scheduler = [{"type": "PolyLR", "eta_min": 1e-5, "power": 0.9, "begin": 0, "end": 300, "by_epoch": False}]
train_cfg = {"max_iters": 300, "val_interval": 300}
default_hooks = {"checkpoint": {"interval": 300, "max_keep_ckpts": 1}, "logger": {"interval": 25}}
