"""A small HRNet with an FCN head for generated street scenes with the 19 classes of Cityscapes.

Stands on its own, so that it needs nothing but mmseg. The weights in ``seg/weights`` come from
``tools/train_demo_segmentor.py``.
"""

widths = (24, 32, 48, 64)
norm_cfg = {"type": "BN", "requires_grad": True}


def _stage(branches: int, block: str, blocks: int, channels: tuple[int, ...]) -> dict[str, object]:
    return {
        "num_modules": 1,
        "num_branches": branches,
        "block": block,
        "num_blocks": (blocks,) * branches,
        "num_channels": channels,
    }


model = {
    "type": "EncoderDecoder",
    "data_preprocessor": {
        "type": "SegDataPreProcessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": 255,
    },
    "backbone": {
        "type": "HRNet",
        "norm_cfg": norm_cfg,
        "norm_eval": False,
        "extra": {
            "stage1": _stage(1, "BOTTLENECK", 1, (32,)),
            "stage2": _stage(2, "BASIC", 2, widths[:2]),
            "stage3": _stage(3, "BASIC", 2, widths[:3]),
            "stage4": _stage(4, "BASIC", 2, widths),
        },
    },
    "decode_head": {
        "type": "FCNHead",
        "in_channels": list(widths),
        "in_index": (0, 1, 2, 3),
        "channels": 96,
        "input_transform": "resize_concat",
        "kernel_size": 1,
        "num_convs": 1,
        "concat_input": False,
        "dropout_ratio": -1,
        "num_classes": 19,
        "norm_cfg": norm_cfg,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
    },
    "train_cfg": {},
    "test_cfg": {"mode": "whole"},
}
