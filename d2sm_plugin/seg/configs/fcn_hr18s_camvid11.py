"""HRNetV2-W18-small with an FCN head for the 11 classes of CamVid (480x360 frames, label value 11 = unlabelled).

Network, schedule and runtime come from mmseg's own Cityscapes config. Trains with mmseg: see docs/segmentation.md.
"""

_base_ = [
    __import__("d2sm_plugin.seg.openmmlab", fromlist=["shipped_config"]).shipped_config(
        "fcn_hr18s_4xb2-160k_cityscapes-512x1024"
    )
]

classes = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
metainfo = {
    "classes": classes,
    "palette": [
        [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
        [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
    ],
}  # fmt: skip
unlabelled = 11
crop_size = (360, 480)

model = {
    "pretrained": None,
    "data_preprocessor": {"size": crop_size, "seg_pad_val": unlabelled},
    "decode_head": {"num_classes": len(classes), "ignore_index": unlabelled},
}

data_root = "data/camvid"
train_pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations"},
    {"type": "RandomResize", "scale": (480, 360), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": crop_size, "cat_max_ratio": 0.75, "ignore_index": unlabelled},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    {"type": "PackSegInputs"},
]
test_pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]


def _subset(name: str, pipeline: object) -> dict[str, object]:
    return {
        "_delete_": True,
        "type": "BaseSegDataset",
        "data_root": data_root,
        "metainfo": metainfo,
        "img_suffix": ".png",
        "ignore_index": unlabelled,
        "reduce_zero_label": False,
        "data_prefix": {"img_path": f"{name}/images", "seg_map_path": f"{name}/labels"},
        "pipeline": pipeline,
    }


train_dataloader = {"batch_size": 8, "dataset": _subset("train", train_pipeline)}
val_dataloader = {"dataset": _subset("val", test_pipeline)}
test_dataloader = {"dataset": _subset("test", test_pipeline)}
val_evaluator = {"type": "IoUMetric", "iou_metrics": ["mIoU"], "ignore_index": unlabelled}
test_evaluator = val_evaluator
