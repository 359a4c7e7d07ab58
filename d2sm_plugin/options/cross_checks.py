"""Checks of what an option file says in one place against what it says in another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from d2sm_plugin.archs.interface import named_outputs, network_inputs, receptive_radius, size_multiple
from d2sm_plugin.blocks import read_block
from d2sm_plugin.data.dataset_options import LoaderOptions
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.losses.d2sm_loss import D2SMLoss
from d2sm_plugin.losses.sampled_objective import SampledObjective
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.models.objective_weight import REFERENCE, check_steps, class_arguments
from d2sm_plugin.models.tiles import tile_spans
from d2sm_plugin.options.data_sets import evaluation_blocks, training_blocks
from d2sm_plugin.options.schema import ValOptions
from d2sm_plugin.options.trials import try_network, try_objective, try_optimisation
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES

_SEGMENTATION_SCORES = ("mIoU", "aAcc", "mAcc")


def check_together(options: Mapping[str, Any], model: type[D2SMModel], is_train: bool, processes: int) -> list[str]:
    """Check what a run would stumble over later, before anything starts.

    Args:
        options: of which every block has been checked by itself.
        model: the class that ``model_type`` names.
        is_train: whether they are for training.
        processes: of the training.

    Returns:
        Lines for the log.

    Raises:
        OptionError: naming the key.
    """
    network = try_network(options["network_g"], "network_g")
    for key in ("network_g", "network_d"):
        if options[key] is not None and key not in model.networks_in_options:
            raise OptionError(f"{key}: {model.__name__} has no such network; set model_type: GANModel, or remove it")
    if options["network_d"] is not None:
        try_network(options["network_d"], "network_d")
    evaluation_blocks(options["datasets"], ("val",) if is_train else ("val", "test"))
    _check_val(options, model, network)
    if not is_train:
        return []
    sets = training_blocks(options["datasets"])
    _check_shared_batches(sets)
    crop = _crop(sets, options["scale"])
    batch_size = sets["train"].get("batch_size_per_gpu", LoaderOptions.model_fields["batch_size_per_gpu"].default)
    notes = _check_objectives(options, model, crop, batch_size * processes)
    try_optimisation(options["train"])
    if network is not None:
        _check_scale(network, sets["train"], crop, options["scale"])
    model.check_options(options, network)
    return notes


def measured_names(options: Mapping[str, Any], model: type[D2SMModel]) -> list[str]:
    """Return the names of all figures that a validation measures, but for the IoU of single classes."""
    val = options["val"]
    names = list(val["metrics"])
    if val["measure_input"]:
        names += [f"{name}_input" for name in val["metrics"]]
    return [*names, *model.measures, *(_SEGMENTATION_SCORES if val["segmentation"] is not None else ())]


def _check_val(options: Mapping[str, Any], model: type[D2SMModel], network: nn.Module | None) -> None:
    val = options["val"]
    names = measured_names(options, model)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"val.metrics.{twice[0]}: another figure has that name already; choose another one")
    best_of = read_block(ValOptions, val, "val").best_of
    for wanted in best_of:
        of_class = val["segmentation"] is not None and wanted.startswith("IoU/")
        if wanted not in names and not of_class:
            raise OptionError(f"val.save_best: no figure '{wanted}' is measured{suggest(wanted, names)}")
    if best_of and not any(key.split("_")[0] == "val" for key in options["datasets"]):
        raise OptionError("val.save_best: there is no dataset 'val' to measure it on")
    if val["patience"] is not None and not (best_of and val["val_freq"]):
        raise OptionError("val.patience: it counts validations without a better val.save_best; set that and val_freq")
    if val["measure_input"] and options["scale"] != 1:
        raise OptionError(f"val.measure_input: with scale {options['scale']} input and clean image differ in size")
    if val["tile"] is not None:
        _check_tile(val["tile"], val["tile_overlap"], network)


def _check_tile(tile: int, overlap: int | None, network: nn.Module | None) -> None:
    if overlap is None:
        overlap = receptive_radius(network)
    try:
        tile_spans(10 * tile, tile, overlap, size_multiple(network))
    except OptionError as error:
        raise OptionError(f"val.tile: {error}") from None


def _check_shared_batches(sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what training sets, which share their batches, cannot have each for itself."""
    for name in ("batch_size_per_gpu", "num_worker_per_gpu", "num_prefetch_queue"):
        for key, block in sets.items():
            if name in block and block[name] != sets["train"].get(name):
                raise OptionError(f"datasets.{key}.{name}: training sets share batches; set it in datasets.train alone")
    ratios = {key: block.get("ratio") for key, block in sets.items()}
    without = [key for key, ratio in ratios.items() if ratio is None]
    if len(without) < len(ratios) and (without or len(ratios) == 1):
        reason = f"datasets.{without[0]} has none; give every training set one" if without else "there is but one set"
        raise OptionError(f"datasets.{next(key for key in ratios if key not in without)}.ratio: {reason}")


def _crop(sets: Mapping[str, Mapping[str, Any]], scale: int) -> int | None:
    """Return the side of the training crop, None where images are taken whole or say it themselves."""
    crops = {key: block.get("gt_size") for key, block in sets.items()}
    first = crops["train"]
    for key, crop in crops.items():
        if crop != first:
            raise OptionError(
                f"datasets.{key}.gt_size: {crop}, but that of datasets.train is {first}; training sets share batches, "
                f"so their crops must have one size"
            )
    if isinstance(first, int) and first % scale:
        raise OptionError(f"datasets.train.gt_size: {first} is no multiple of scale {scale}")
    return first if isinstance(first, int) else None


def _check_objectives(
    options: Mapping[str, Any], model: type[D2SMModel], crop: int | None, joint_batch: int
) -> list[str]:
    for key, block in options["train"].items():
        if not key.endswith("_opt") or block is None:
            continue
        where = f"train.{key}"
        if key == "gan_opt" and "network_d" not in model.networks_in_options:
            raise OptionError(f"{where}: {model.__name__} has no discriminator; set model_type: GANModel")
        if isinstance(block.get("loss_weight"), Mapping):
            _check_reference(options["train"], key)
        objective = try_objective(class_arguments(block), where)
        least = getattr(objective, "least", None)
        if isinstance(least, int) and crop is not None and crop < least:
            raise OptionError(
                f"{where}: {block['type']} needs images of at least {least} pixels, datasets.train.gt_size is {crop}"
            )
        for term in getattr(objective, "terms", [objective]):
            if isinstance(term, SampledObjective):
                _check_samples(term, where, crop, joint_batch)
    blocks = {key: block for key, block in options["train"].items() if key.endswith("_opt") and block is not None}
    return check_steps(blocks, options["train"]["total_iter"], may_rest="gan_opt" in blocks)


def _check_reference(train: Mapping[str, Any], key: str) -> None:
    """Refuse a relative weight without a pixel objective whose gradient it could be a multiple of."""
    reference = train.get(f"{REFERENCE}_opt")
    where = f"train.{key}.loss_weight.relative"
    if key == f"{REFERENCE}_opt":
        raise OptionError(f"{where}: weights are relative to {key} itself; set a number here")
    if reference is None:
        raise OptionError(
            f"{where}: it is relative to train.{REFERENCE}_opt, which is missing; add that, or set a number"
        )
    if reference.get("loss_weight") == 0:
        raise OptionError(f"{where}: it is relative to train.{REFERENCE}_opt, whose loss_weight is 0")


def _check_samples(loss: SampledObjective, where: str, crop: int | None, joint_batch: int) -> None:
    """Refuse a training that never has enough samples to compare, and windows that do not fit into the crop."""
    of_image: int | None = 1
    if loss.patches is not None:
        try:
            of_image = loss.patches.samples_of(crop) if crop is not None else None
        except ShapeError as error:
            raise OptionError(f"{where}.patches: {error}") from None
        limit = loss.patches.limit
        of_image = limit if of_image is None else of_image if limit is None else min(of_image, limit)
    if loss.patches is not None and loss.patches.scope == "image":
        reached, of = of_image, "an image"
    elif isinstance(loss, D2SMLoss) and loss.queue is not None:
        reached, of = loss.queue.size, "the queue"
    else:
        reached, of = None if of_image is None else of_image * joint_batch, "a batch"
    if reached is not None and reached < LEAST_SAMPLES:
        raise OptionError(
            f"{where}: {of} has {reached} sample{'s' * (reached != 1)}, and statistics need {LEAST_SAMPLES}; enlarge "
            f"datasets.train.batch_size_per_gpu, or take patches or a queue (D2SM would be 0 in every step)"
        )


def _check_scale(network: nn.Module, dataset: Mapping[str, Any], crop: int | None, scale: int) -> None:
    """Refuse a network that enlarges by another factor than ``scale``; its tensors have shapes alone."""
    if crop is None or next(network.parameters(), torch.empty(0)).device.type != "meta":
        return
    channels = 1 if dataset.get("color") in ("gray", "y") else 3
    shapes = {"lq": (1, channels, crop // scale, crop // scale), "sigma": (1, 1, 1, 1)}
    names = network_inputs(network)
    if any(name not in shapes for name in names):
        return
    try:
        with torch.no_grad(), torch.device("meta"):
            restored = named_outputs(network(*(torch.empty(shapes[name]) for name in names)))["restored"]
    except Exception:  # noqa: BLE001  # what it computes may have no meaning without values; the first step will tell
        return
    if restored.ndim == 4 and tuple(restored.shape[-2:]) != (crop, crop):
        raise OptionError(
            f"scale: {scale}, but network_g makes {restored.shape[-2]}x{restored.shape[-1]} of "
            f"{crop // scale}x{crop // scale}; set the scale of the network's images"
        )
