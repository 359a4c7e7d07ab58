"""A whole training iteration, data and all, against BasicSR's own model on the same network, data and objectives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any
from unittest import mock

import torch
from basicsr.utils.registry import MODEL_REGISTRY

from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.pipeline.loaders import TrainBatches
from d2sm_plugin.studies.benchmark.material import scene_folder
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step

_OBJECTIVES = {
    "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    "perceptual_opt": {
        "type": "PerceptualLoss",
        "layer_weights": {"conv5_4": 1},
        "vgg_type": "vgg19",
        "use_input_norm": True,
        "range_norm": False,
        "perceptual_weight": 1.0,
        "style_weight": 0,
        "criterion": "l1",
    },
}


def build(settings: Settings) -> Case:
    """RIDNet with L1 and VGG19's conv5_4 (random weights) on crops of street scenes, batch of 4."""
    return Case(
        "training iteration, RIDNet, L1 + PerceptualLoss (VGG19)",
        "BasicSR's SRModel",
        {
            "BasicSR's SRModel": lambda: _their_step(settings),
            "D2SMModel": lambda: our_step(settings, _OBJECTIVES, network=_NETWORK, sigma=False),
        },
        rounds=9,
    )


_NETWORK = {"type": "RIDNet", "in_channels": 3, "mid_channels": 32, "out_channels": 3, "num_block": 2}
_FFDNET = {"type": "FFDNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 96, "num_layers": 12}


def our_step(
    settings: Settings,
    objectives: Mapping[str, Any],
    network: Mapping[str, Any] = _FFDNET,
    sigma: bool = True,
    **train: Any,
) -> Step:
    """Return one iteration of :class:`D2SMModel`: a batch from the loader, forward, backward, optimiser."""
    model, batches = training(settings, objectives, network, sigma, **train)
    count = iter(range(2, 10**9))  # the first step also logs the norms of the gradients

    def step() -> None:
        model.train_step([next(batches)], next(count))

    return step


def training(
    settings: Settings,
    objectives: Mapping[str, Any],
    network: Mapping[str, Any] = _FFDNET,
    sigma: bool = True,
    **train: Any,
) -> tuple[D2SMModel, Iterator[Mapping[str, Any]]]:
    """Return a model and the batches it is trained on."""
    with random_vgg():
        model = D2SMModel(_options(settings, objectives, network, **train))
    return model, iter(_data(settings))


def _their_step(settings: Settings) -> Step:
    options = _options(settings, _OBJECTIVES, _NETWORK)
    with random_vgg():
        model = MODEL_REGISTRY.get("SRModel")(deepcopy(options))
    batches = iter(_data(settings))

    def step() -> None:
        model.feed_data(next(batches))
        model.optimize_parameters(1)

    return step


def _sides(settings: Settings) -> tuple[int, int, int]:
    """Height and width of the stored scenes, and the side of the crops."""
    return (160, 320, 96) if settings.small else (512, 1024, 128)


def _options(
    settings: Settings, objectives: Mapping[str, Any], network: Mapping[str, Any], **train: Any
) -> dict[str, Any]:
    options = {
        "name": "benchmark",
        "num_gpu": int(settings.device.type == "cuda"),
        "datasets": {"train": _dataset(settings)},
        "network_g": dict(network),
        "train": {
            "total_iter": 10**6,
            "optim_g": {"type": "Adam", "lr": 1e-4},
            "scheduler": {"type": "MultiStepLR", "milestones": [10**6], "gamma": 0.5},
            **deepcopy(dict(objectives)),
            **train,
        },
    }
    return validate_options(options) | {"dist": False, "rank": 0, "world_size": 1, "is_train": True}


def _dataset(settings: Settings) -> dict[str, Any]:
    height, width, crop = _sides(settings)
    return {
        "type": "NoisyImageDataset",
        "dataroot_gt": str(scene_folder(4, height, width) / "images"),
        "gt_size": crop,
        "sigma_range": [0, 75],
        "batch_size_per_gpu": 2 if settings.small else 4,
        "num_worker_per_gpu": 0,
    }


def _data(settings: Settings) -> TrainBatches:
    torch.manual_seed(0)
    return TrainBatches({"train": {**_dataset(settings), "phase": "train"}}, 0, 0, 1, drawn=0, pin_memory=False)


@contextlib.contextmanager
def random_vgg() -> Iterator[None]:
    """Let BasicSR build its VGG19 with random weights instead of downloading; time does not depend on them."""
    from torchvision.models import vgg19

    torch.manual_seed(0)
    with mock.patch("basicsr.archs.vgg_arch.vgg.vgg19", lambda pretrained: vgg19(weights=None)):
        yield
