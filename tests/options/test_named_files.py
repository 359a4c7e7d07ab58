from __future__ import annotations

from d2sm_plugin.options.named_files import missing_files


def test_a_config_may_be_the_name_of_one_that_a_package_ships():
    block = {"type": "SegmentationLoss", "config": "fcn_hr18s_camvid11", "checkpoint": "nowhere.pth"}
    options = {"path": {}, "datasets": {}, "network_g": None, "network_d": None, "train": {"segmentation_opt": block}}
    options["val"] = {"segmentation": {**block, "labels": "nowhere"}, "metrics": {}}
    assert missing_files(options) == [
        "val.segmentation.checkpoint: nowhere.pth",
        "val.segmentation.labels: nowhere",
        "train.segmentation_opt.checkpoint: nowhere.pth",
    ]
