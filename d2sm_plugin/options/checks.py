"""Holds the blocks with a ``type`` against the registered classes they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.models.optimisation import optimiser_class, scheduler_class
from d2sm_plugin.models.weight_schedule import WeightSchedule
from d2sm_plugin.registry import check_arguments, lookup
from d2sm_plugin.seg.scorer import read_segmentation_options

PHASES = ("train", "val", "test")
#: Keys of an objective's block that the model reads itself.
OBJECTIVE_KEYS = frozenset({"takes", "schedule"})


def check_types(options: Mapping[str, Any], is_train: bool) -> None:
    """Check every block that names a registered class.

    Raises:
        OptionError: for an unknown type, an argument the class does not take, or a wrong phase; the message starts
            with the path of the key.
    """
    model = lookup(MODEL_REGISTRY, options["model_type"], "model_type")
    for key in ("network_g", "network_d"):
        if options[key] is not None:
            _check_block(ARCH_REGISTRY, options[key], key)
    _check_datasets(options["datasets"], is_train)
    for name, block in options["val"]["metrics"].items():
        _check_metric(block, f"val.metrics.{name}")
    if options["val"]["segmentation"] is not None:
        read_segmentation_options(options["val"]["segmentation"])
    if is_train:
        _check_train(options["train"], model)


def _check_block(registry: Any, block: Mapping[str, Any], where: str, own_keys: frozenset[str] = frozenset()) -> None:
    if "type" not in block:
        raise OptionError(f"{where}: the key 'type' is missing{suggest('', registry.keys())}")
    target = lookup(registry, block["type"], f"{where}.type")
    check_arguments(target, {k: v for k, v in block.items() if k != "type" and k not in own_keys}, where)


def _check_datasets(datasets: Mapping[str, Mapping[str, Any]], is_train: bool) -> None:
    for key, block in datasets.items():
        phase = key.split("_")[0]
        where = f"datasets.{key}"
        if phase not in PHASES:
            raise OptionError(f"{where}: a dataset's key is its phase{suggest(phase, PHASES)} (or val_2, test_cbsd68)")
        if "type" not in block:
            raise OptionError(f"{where}: the key 'type' is missing{suggest('', DATASET_REGISTRY.keys())}")
        lookup(DATASET_REGISTRY, block["type"], f"{where}.type")
        for count in ("batch_size_per_gpu", "num_worker_per_gpu", "dataset_enlarge_ratio"):
            value = block.get(count, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < (count != "num_worker_per_gpu"):
                raise OptionError(f"{where}.{count}: expected a whole number, got {value!r}")
    if is_train and "train" not in datasets:
        raise OptionError(f"datasets: training needs a dataset 'train'; there is {', '.join(datasets) or 'none'}")
    if not is_train and not any(key.split("_")[0] in ("val", "test") for key in datasets):
        raise OptionError("datasets: testing needs a dataset 'test' (or 'val')")


def _check_metric(block: Mapping[str, Any], where: str) -> None:
    if "type" not in block:
        raise OptionError(f"{where}: the key 'type' is missing{suggest('', METRIC_REGISTRY.keys())}")
    target = lookup(METRIC_REGISTRY, block["type"], f"{where}.type")
    arguments = {key: value for key, value in block.items() if key not in ("type", "better")}
    check_arguments(target, {"img": None, "img2": None, **arguments}, where)


def _check_train(train: Mapping[str, Any] | None, model: type) -> None:
    if train is None:
        raise OptionError("train: this block is missing; training needs at least total_iter, optim_g and an objective")
    for key in ("optim_g", "optim_d"):
        if train.get(key) is not None:
            block = train[key]
            if "type" not in block:
                raise OptionError(f"train.{key}: the key 'type' is missing; for example 'type: Adam'")
            cls = optimiser_class(block["type"], f"train.{key}")
            arguments = {k: v for k, v in block.items() if k != "type"}
            check_arguments(cls, {"params": [], **arguments}, f"train.{key}")
    if train.get("scheduler") is not None:
        block = train["scheduler"]
        if "type" not in block:
            raise OptionError("train.scheduler: the key 'type' is missing; for example 'type: MultiStepLR'")
        cls = scheduler_class(block["type"], "train.scheduler")
        arguments = {k: v for k, v in block.items() if k != "type"}
        check_arguments(cls, {"optimizer": None, **arguments}, "train.scheduler")
    if train.get("growth") is not None and not getattr(model, "grows", False):
        raise OptionError(
            f"train.growth: {model.__name__} trains no growing networks; set model_type: ProgressiveModel"
        )
    objectives = {key: block for key, block in train.items() if key.endswith("_opt") and block is not None}
    if not objectives:
        raise OptionError("train: no objective; add a block such as pixel_opt: {type: L1Loss}")
    for key, block in objectives.items():
        own_keys = getattr(model, "gan_keys", frozenset({"takes"})) if key == "gan_opt" else OBJECTIVE_KEYS
        _check_block(LOSS_REGISTRY, block, f"train.{key}", own_keys)
        if block.get("schedule") is not None:
            WeightSchedule(block["schedule"], f"train.{key}.schedule")
