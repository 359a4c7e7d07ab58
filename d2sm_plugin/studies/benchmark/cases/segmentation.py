"""Segmenting and scoring a folder of images, against mmsegmentation's own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.seg.classes import load_class_set
from d2sm_plugin.seg.segmentor import Segmentor, build_segmentor
from d2sm_plugin.studies.benchmark.material import scene_folder
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step
from d2sm_plugin.studies.evaluation.methods import stored_method
from d2sm_plugin.studies.evaluation.seg_scoring import score_method

#: HRNetV2-W18-small with 19 classes, random weights; mmseg ships the config.
_CONFIG = "fcn_hr18s_4xb2-80k_cityscapes-512x1024"


def build(settings: Settings) -> Case:
    """Four street scenes of 512x1024 (two of 128x256 when small): read, segment by HRNetV2-W18-small, score."""
    count, height, width = (2, 128, 256) if settings.small else (4, 512, 1024)
    return Case(
        f"segmentation of {count} images of {height}x{width}, HRNetV2-W18-small",
        "mmseg",
        {
            "mmseg": lambda: _mmseg(settings, scene_folder(count, height, width)),
            "d2sm_plugin": lambda: _through_plugin(settings, scene_folder(count, height, width)),
        },
        rounds=5,
    )


def _segmentor(settings: Settings, channels_last: bool) -> Segmentor:
    torch.manual_seed(0)
    return build_segmentor(_CONFIG, None, settings.device, channels_last=channels_last)


def _through_plugin(settings: Settings, folder: Path) -> Step:
    segmentor, classes = _segmentor(settings, True), load_class_set("cityscapes")
    images, labels = open_images(folder / "images"), open_images(folder / "labels")
    method = stored_method("scenes", images, labels.keys, str(folder))
    return lambda: score_method(method, labels, classes, segmentor)


def _mmseg(settings: Settings, folder: Path) -> Step:
    """``inference_model`` on every file and ``IoUMetric`` over all of them."""
    from mmengine.registry import init_default_scope
    from mmengine.structures import PixelData
    from mmseg.apis import inference_model
    from mmseg.evaluation import IoUMetric

    network = _their_network(settings)
    init_default_scope("mmseg")
    names = load_class_set("cityscapes").names
    labels = open_images(folder / "labels")

    def step() -> None:
        metric = IoUMetric()
        metric.dataset_meta = {"classes": names}
        for key in labels.keys:
            result = inference_model(network, str(folder / "images" / f"{key}.png"))
            label = torch.from_numpy(labels.read_label(key)).long().to(settings.device)[None]
            result.gt_sem_seg = PixelData(data=label)
            metric.process({}, [result.to_dict()])
        metric.compute_metrics(metric.results)

    return step


def _their_network(settings: Settings) -> Any:
    from d2sm_plugin.seg.openmmlab import read_config

    segmentor = _segmentor(settings, False)
    network = segmentor.network
    config = read_config(_CONFIG)
    config.model.data_preprocessor.pop("size", None)  # of training crops
    config.test_pipeline = [step for step in config.test_pipeline if step["type"] != "Resize"]
    network.cfg = config
    from mmseg.registry import MODELS

    network.data_preprocessor = MODELS.build(config.model.data_preprocessor).to(settings.device)
    return network
