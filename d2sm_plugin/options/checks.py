"""Checks of the blocks with a ``type`` against the registered classes they name, down to the type of every value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from d2sm_plugin.blocks import explain, read_block, shown
from d2sm_plugin.data.dataset_options import PIPELINE_KEYS, LoaderOptions, read_dataset_options
from d2sm_plugin.data.host_datasets import host_dataset_options
from d2sm_plugin.degradations.chain import PROBABILITY, read_steps
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.features.build import check_extractor_name
from d2sm_plugin.models.objective_weight import (
    ObjectiveOptions,
    RelativeOptions,
    class_arguments,
)
from d2sm_plugin.models.objectives import objective_name
from d2sm_plugin.models.optimisation import optimiser_class, scheduler_class
from d2sm_plugin.models.weight_schedule import WeightSchedule
from d2sm_plugin.options.host_arguments import is_of_host
from d2sm_plugin.options.schema import LoggerOptions
from d2sm_plugin.options.signatures import Argument, signature_of
from d2sm_plugin.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    DEGRADATION_REGISTRY,
    FEATURE_REGISTRY,
    LOGGER_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    lookup,
)

PHASES = ("train", "val", "test")
#: Arguments of metrics that validation fills in.
METRIC_IMAGES = ("img", "img2")


def check_types(options: Mapping[str, Any], model: type, is_train: bool) -> None:
    """Check every block that names a registered class.

    Args:
        options: of which the keys at the top have been checked.
        model: the class that ``model_type`` names.
        is_train: whether they are for training.

    Raises:
        OptionError: for an unknown type, an argument the class does not take or a value it cannot use, or a wrong
            phase; the message starts with the path of the key.
    """
    for key in ("network_g", "network_d"):
        if options[key] is not None:
            check_block(ARCH_REGISTRY, options[key], key)
    _check_datasets(options["datasets"], is_train)
    for name, block in options["val"]["metrics"].items():
        _check_metric(block, f"val.metrics.{name}")
    if is_train:
        for name, block in read_block(LoggerOptions, options["logger"], "logger").blocks().items():
            check_block(LOGGER_REGISTRY, block, f"logger.{name}")
        _check_train(options["train"], model)


def check_block(
    registry: Any,
    block: Mapping[str, Any],
    where: str,
    kind: type | None = None,
) -> Any:
    """Check a block ``{"type": NAME, **arguments}`` and the blocks within it; return what it names.

    Args:
        registry: where the name is looked up.
        block: the block.
        where: its path.
        kind: base class of what it must name; None for any.

    Raises:
        OptionError: naming the key.
    """
    known = [name for name, known in registry if kind is None or (inspect.isclass(known) and issubclass(known, kind))]
    target = lookup(registry, named_type(block, where, known), f"{where}.type")
    if kind is not None and not (inspect.isclass(target) and issubclass(target, kind)):
        raise OptionError(f"{where}.type: '{block['type']}' is no {kind.__name__}{suggest(block['type'], known)}")
    check_values(target, block, where)
    return target


def named_type(block: Mapping[str, Any], where: str, known: Any) -> str:
    """Return the ``type`` of a block.

    Raises:
        OptionError: when it is missing or no text.
    """
    if "type" not in block:
        raise OptionError(f"{where}: the key 'type' is missing{suggest('', known)}")
    if not isinstance(block["type"], str):
        raise OptionError(f"{where}.type: expected a name, got {shown(block['type'])}{suggest('', known)}")
    return block["type"]


def check_values(
    target: Callable[..., Any], block: Mapping[str, Any], where: str, filled_in: tuple[str, ...] = ()
) -> None:
    """Check the arguments in a block against what a class or function takes.

    Args:
        target: the class or function.
        block: ``type`` and arguments.
        where: path of the block.
        filled_in: arguments that do not come from option files.

    Raises:
        OptionError: naming the argument.
    """
    signature = signature_of(target, filled_in)
    arguments = {key: value for key, value in block.items() if key != "type"}
    for key, value in arguments.items():
        if key in signature.arguments:
            _check_value(signature.arguments[key], value, f"{where}.{key}")
        elif not signature.open or not isinstance(key, str):
            known = suggest(str(key), signature.arguments)
            raise OptionError(f"{where}.{key}: {target.__name__} takes no such argument{known}")
    missing = [name for name, argument in signature.arguments.items() if argument.required and name not in arguments]
    if missing:
        raise OptionError(f"{where}: {target.__name__} needs {', '.join(missing)}; add it to the option block")
    further = getattr(target, "check_arguments", None)
    if further is not None:
        further(arguments, where)


def _check_value(argument: Argument, value: Any, where: str) -> None:
    if argument.block is not None and isinstance(value, Mapping):
        check_block(argument.block.registry, value, where, argument.block.kind)
        return
    if argument.block is not None and argument.block.registry is DEGRADATION_REGISTRY and isinstance(value, list):
        _check_degradations(value, where)
    if argument.block is not None and argument.block.registry is FEATURE_REGISTRY and isinstance(value, str):
        check_extractor_name(value, where)
    try:
        argument.adapter.validate_python(value)
    except ValidationError as error:
        raise OptionError(explain(error, where, block=value)) from None


def _check_datasets(datasets: Mapping[str, Mapping[str, Any]], is_train: bool) -> None:
    for key, block in datasets.items():
        phase = key.split("_")[0]
        where = f"datasets.{key}"
        if phase not in PHASES:
            raise OptionError(f"{where}: a dataset's key is its phase{suggest(phase, PHASES)} (or val_2, test_cbsd68)")
        target = lookup(DATASET_REGISTRY, named_type(block, where, DATASET_REGISTRY.keys()), f"{where}.type")
        read_block(LoaderOptions, {key: value for key, value in block.items() if key in PIPELINE_KEYS}, where)
        if phase != "train" and block.get("ratio") is not None:
            raise OptionError(f"{where}.ratio: for training sets only")
        model = getattr(target, "options_model", None) or host_dataset_options(target)
        if model is None:
            continue
        if "degradations" in model.model_fields and isinstance(block.get("degradations"), list):
            _check_degradations(block["degradations"], f"{where}.degradations")
            read_steps(block["degradations"], f"{where}.degradations")
        levels = block.get("sigma")
        if phase == "train" or not isinstance(levels, list) or "sigma" not in model.model_fields:
            read_dataset_options(model, {**block, "phase": phase}, where)
            continue
        if not levels:
            raise OptionError(f"{where}.sigma: expected a noise level, or a list of some, got []")
        for level in levels:  # each is a set of its own
            read_dataset_options(model, {**block, "phase": phase, "sigma": level}, where)
    if is_train and "train" not in datasets:
        raise OptionError(f"datasets: training needs a dataset 'train'; there is {', '.join(datasets) or 'none'}")
    if not is_train and not any(key.split("_")[0] in ("val", "test") for key in datasets):
        raise OptionError("datasets: testing needs a dataset 'test' (or 'val')")


def _check_degradations(blocks: Sequence[Any], where: str) -> None:
    """Check a list of blocks; what is no block is left to the check of the list itself."""
    for number, block in enumerate(blocks):
        if isinstance(block, Mapping):
            arguments = {key: value for key, value in block.items() if key != PROBABILITY}
            check_block(DEGRADATION_REGISTRY, arguments, f"{where}.{number}")


def _check_metric(block: Mapping[str, Any], where: str) -> None:
    target = lookup(METRIC_REGISTRY, named_type(block, where, METRIC_REGISTRY.keys()), f"{where}.type")
    if is_of_host(target) and target.__name__.endswith("_pt"):
        raise OptionError(f"{where}.type: {block['type']} takes tensors; set {block['type'].removesuffix('_pt')}")
    if block.get("better", "higher") not in ("higher", "lower"):
        raise OptionError(f"{where}.better: expected 'higher' or 'lower', got {shown(block['better'])}")
    check_values(target, {key: value for key, value in block.items() if key != "better"}, where, METRIC_IMAGES)


def _check_train(train: Mapping[str, Any] | None, model: type) -> None:
    if train is None:
        raise OptionError("train: this block is missing; training needs at least total_iter, optim_g and an objective")
    for key, find, filled_in in (
        ("optim_g", optimiser_class, "params"),
        ("optim_d", optimiser_class, "params"),
        ("scheduler", scheduler_class, "optimizer"),
    ):
        if train.get(key) is not None:
            where = f"train.{key}"
            target = find(named_type(train[key], where, ["Adam"] if "optim" in key else ["MultiStepLR"]), where)
            check_values(target, train[key], where, (filled_in,))
    objectives = {key: block for key, block in train.items() if key.endswith("_opt") and block is not None}
    if not objectives:
        raise OptionError("train: no objective; add a block such as pixel_opt: {type: L1Loss}")
    for key, block in objectives.items():
        _check_objective(key, block, model)


def _check_objective(key: str, block: Mapping[str, Any], model: type) -> None:
    where = f"train.{key}"
    objective_name(key)
    objective_options = getattr(model, "gan_options", ObjectiveOptions) if key == "gan_opt" else ObjectiveOptions
    target = check_block(LOSS_REGISTRY, class_arguments(block, objective_options), where)
    if isinstance(block.get("loss_weight"), Mapping):
        read_block(RelativeOptions, block["loss_weight"], f"{where}.loss_weight")
    options = read_block(
        objective_options,
        {name: value for name, value in block.items() if name in objective_options.model_fields},
        where,
    )
    if options.schedule is not None:
        WeightSchedule(options.schedule, f"{where}.schedule")
    if options.every > 1 and key == "gan_opt":
        raise OptionError(f"{where}.every: {model.__name__} computes it in every step; net_d_iters lets it rest")
    if options.takes is None or key == "gan_opt":
        return
    try:
        inspect.signature(target.forward).bind(None, *options.takes)
    except TypeError as error:
        raise OptionError(
            f"{where}.takes: {target.__name__} cannot be called with {len(options.takes)} ({error})"
        ) from None
