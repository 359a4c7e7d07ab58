"""What configs make of stored label values, against mmseg's own reading of the same file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from seg_material import write_tiny

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses.segmentation_loss import SegmentationLoss
from d2sm_plugin.seg import build_segmentor
from d2sm_plugin.seg.label_values import AS_STORED, describe, label_values
from d2sm_plugin.seg.scorer import SegmentationScorer

pytest.importorskip("mmseg")

ALL_VALUES = np.arange(256, dtype=np.uint8).reshape(16, 16)
PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
REDUCING = [{"type": "LoadAnnotations", "reduce_zero_label": True}]
ADE20K_AND_OTHERS = {"ADE20KDataset": True, "LoveDADataset": True}  # as mmseg's own classes have it
CLASSES = ("building", "road", "sky")  # of Cityscapes, in another order and few


def loader(dataset):
    return {"test_dataloader": {"dataset": dataset}}


@pytest.mark.parametrize(
    "config",
    [
        {},
        loader({"type": "CityscapesDataset", "pipeline": PIPELINE}),
        loader({"type": "ADE20KDataset", "pipeline": PIPELINE}),
        loader({"type": "mmseg.LoveDADataset", "pipeline": PIPELINE}),
        loader({"type": "ADE20KDataset", "pipeline": PIPELINE, "reduce_zero_label": False}),
        loader({"type": "BaseSegDataset", "pipeline": PIPELINE, "reduce_zero_label": True}),
        loader({"type": "RepeatDataset", "times": 2, "dataset": {"type": "ADE20KDataset", "pipeline": PIPELINE}}),
        loader({"type": "ConcatDataset", "datasets": [{"type": "ADE20KDataset", "pipeline": PIPELINE}]}),
        loader({"type": "CityscapesDataset", "pipeline": PIPELINE, "metainfo": {"classes": CLASSES}}),
        loader({"type": "ADE20KDataset", "pipeline": PIPELINE, "metainfo": {"classes": ("sky", "wall")}}),
        {"val_dataloader": {"dataset": {"type": "ADE20KDataset", "pipeline": PIPELINE}}},
    ],
)
def test_values_are_those_that_mmseg_reads(tmp_path, config):
    from mmseg.datasets.transforms import LoadAnnotations
    from mmseg.registry import DATASETS

    Image.fromarray(ALL_VALUES).save(tmp_path / "all.png")
    block = next((value["dataset"] for value in config.values()), {})
    while "datasets" in block or "dataset" in block:
        block = block["datasets"][0] if "datasets" in block else block["dataset"]
    kind = DATASETS.get(block.get("type", "BaseSegDataset"))
    default = ADE20K_AND_OTHERS.get(block.get("type", "").removeprefix("mmseg."), False)
    results = {
        "seg_map_path": str(tmp_path / "all.png"),
        "reduce_zero_label": block.get("reduce_zero_label", default),
        "label_map": kind.get_label_map(block.get("metainfo", {}).get("classes")),
        "seg_fields": [],
    }
    read = LoadAnnotations().transform(results)["gt_seg_map"]
    assert np.array_equal(label_values(config)[ALL_VALUES], read)


@pytest.mark.parametrize("place", ["pipeline of the set", "pipeline of the config"])
def test_a_step_that_reduces_counts_too(place):
    block = {"type": "BaseSegDataset", "pipeline": REDUCING if place == "pipeline of the set" else PIPELINE}
    config = loader(block) | ({} if place == "pipeline of the set" else {"test_pipeline": REDUCING})
    assert label_values(config)[[0, 1, 150, 254, 255]].tolist() == [255, 0, 149, 253, 255]


def test_ignore_index_does_not_count():
    config = loader({"type": "BaseSegDataset", "pipeline": PIPELINE, "ignore_index": 11})
    assert label_values(config)[[10, 11, 12, 255]].tolist() == [10, 255, 12, 255]
    config = {"test_evaluator": [{"type": "IoUMetric", "ignore_index": 7}]}
    assert label_values(config)[[6, 7]].tolist() == [6, 255]


def test_strange_classes_are_named():
    config = loader({"type": "CityscapesDataset", "metainfo": {"classes": ("road", "street")}})
    with pytest.raises(OptionError, match="names the class 'street', which CityscapesDataset does not have"):
        label_values(config)


def test_description():
    assert describe(AS_STORED) is None
    reduced = label_values(loader({"type": "ADE20KDataset"}))
    assert describe(reduced).endswith("otherwise than stored: 0 as ignored, 1 as 0, 2 as 1, ...")


@pytest.fixture(scope="module")
def reducing(tmp_path_factory):
    """A tiny network whose config counts classes from 1, and the same one that counts from 0."""
    folder = tmp_path_factory.mktemp("reducing")
    config, checkpoint = write_tiny(folder)
    with open(config) as file:
        text = file.read()
    (folder / "reducing.py").write_text(
        text + "\ntest_dataloader = dict(dataset=dict(type='BaseSegDataset', reduce_zero_label=True, pipeline=[]))\n"
    )
    return config, str(folder / "reducing.py"), checkpoint


def from_one(labels):
    """The same labels, counted from 1, 0 for what does not count."""
    return np.where(labels == 255, 0, labels + 1).astype(np.uint8)


def test_scorer_counts_as_the_config_says(reducing, tmp_path):
    plain, renumbering, checkpoint = reducing
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, (40, 48)).astype(np.uint8)
    label[:3] = 255
    scores = {}
    for name, config, stored in (("0", plain, label), ("1", renumbering, from_one(label))):
        (tmp_path / name).mkdir()
        Image.fromarray(stored).save(tmp_path / name / "a.png")
        scorer = SegmentationScorer({"config": config, "checkpoint": checkpoint, "labels": str(tmp_path / name)})
        scorer.add(["a"], torch.from_numpy(rng.random((1, 3, 40, 48)) * 0 + 0.5))
        scores[name] = scorer.finish()
    assert scores["0"] == scores["1"]


def test_loss_counts_as_the_config_says(reducing):
    plain, renumbering, checkpoint = reducing
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, (2, 32, 32)).astype(np.uint8)
    label[:, :3] = 255
    restored = torch.from_numpy(rng.random((2, 3, 32, 32), dtype=np.float32))
    values = [
        SegmentationLoss(config, checkpoint)(restored, torch.from_numpy(stored).long()).item()
        for config, stored in ((plain, label), (renumbering, from_one(label)))
    ]
    assert values[0] == values[1] > 0


def test_masks_of_0_and_255_are_remarked(reducing, tmp_path, caplog):
    plain, _, checkpoint = reducing
    Image.fromarray(np.where(np.arange(1600).reshape(40, 40) % 3, 0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    scorer = SegmentationScorer({"config": plain, "checkpoint": checkpoint, "labels": str(tmp_path)})
    scorer.add(["a"], torch.zeros(1, 3, 40, 40))
    scorer.finish()
    assert "all pixels that count are of the class 'road'" in caplog.text
    assert np.array_equal(build_segmentor(plain, None).label_values, AS_STORED)


def test_recorded_figures_of_a_set_counted_from_one(shared, tmp_path):
    """mmseg's own figures for two frames of CamVid, the last class absent and all others counted from 1."""
    from d2sm_plugin.studies.evaluation.seg_eval import main

    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for file in sorted((shared / "data/camvid/test/images").iterdir())[:2]:
        Image.open(file).save(tmp_path / "images" / file.name)
        label = np.array(Image.open(shared / "data/camvid/test/labels" / file.name)).astype(int)
        Image.fromarray(np.where(label >= 10, 0, label + 1).astype(np.uint8)).save(tmp_path / "labels" / file.name)
    (tmp_path / "config.py").write_text(
        "_base_ = __import__('d2sm_plugin.seg.openmmlab', fromlist=['x']).find_config('fcn_hr18s_camvid11')"
        ".as_posix()\n"
        "val_dataloader = dict(dataset=dict(reduce_zero_label=True))\n"
        "test_dataloader = dict(dataset=dict(reduce_zero_label=True, ignore_index=255))\n"
        "test_evaluator = dict(ignore_index=255)\n"
    )
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    arguments = ["--labels", tmp_path / "labels", "--restored", f"clean={tmp_path / 'images'}", "--device", "cpu"]
    arguments += ["--config", tmp_path / "config.py", "--checkpoint", shared / "weights/hrnet18s_camvid11.pth"]
    assert main([*map(str, arguments), "--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "out")]) == 0
    import json

    actual = json.loads((tmp_path / "out" / "metrics.json").read_text())["clean"]
    assert [round(actual[name], 2) for name in ("mIoU", "aAcc", "mAcc")] == [49.93, 87.27, 77.52]
