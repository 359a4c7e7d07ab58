"""Label values: the classes that an mmseg config makes of what is stored in label maps."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import OptionError
from d2sm_plugin.seg.classes import IGNORE

#: Label maps as they are stored: every value means itself.
AS_STORED: NDArray[np.uint8] = np.arange(IGNORE + 1, dtype=np.uint8)
_LOADERS = ("test_dataloader", "val_dataloader", "train_dataloader")


def label_values(config: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the class that mmseg counts for each stored value.

    As its ``LoadAnnotations`` does: with ``reduce_zero_label`` 0 does not count and every other value is one less; then
    classes that ``metainfo`` leaves out or puts in another order are renumbered. ``ignore_index`` does not count.
    The first of test, validation and training set that the config describes decides.

    Args:
        config: an mmseg config.

    Returns:
        (256,) uint8; 255 for values that do not count.

    Raises:
        OptionError: when ``metainfo`` names classes that its data set lacks.
    """
    block = next((dataset for name in _LOADERS if (dataset := _dataset(config.get(name))) is not None), {})
    values = AS_STORED.copy()
    if _reduces_zero_label(block, config):
        values[1:IGNORE] -= 1
        values[0] = IGNORE
    renumbered = values.copy()
    for old, new in _label_map(block).items():
        renumbered[values == old] = new
    for ignored in _ignored(block, config):
        renumbered[renumbered == ignored] = IGNORE
    return renumbered


def describe(values: NDArray[np.uint8]) -> str | None:
    """Return how values are renumbered, in words; None where they count as they are stored."""
    if np.array_equal(values, AS_STORED):
        return None
    changed = [f"{old} as {'ignored' if values[old] == IGNORE else values[old]}" for old in range(IGNORE)]
    shown = [text for old, text in enumerate(changed) if values[old] != old]
    return f"as the config says, label values count otherwise than stored: {', '.join(shown[:3])}" + (
        ", ..." if len(shown) > 3 else ""
    )


def _dataset(loader: Any) -> Mapping[str, Any] | None:
    """The data set of a loader's block, out of the wrappers that repeat and join data sets."""
    block = loader.get("dataset") if isinstance(loader, Mapping) else None
    while isinstance(block, Mapping) and ("dataset" in block or "datasets" in block):
        inner = block.get("dataset", block.get("datasets"))
        block = inner[0] if isinstance(inner, (list, tuple)) and inner else inner
    return block if isinstance(block, Mapping) else None


def _reduces_zero_label(block: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    pipelines = (block.get("pipeline"), config.get("test_pipeline"))
    steps = [step for steps in pipelines if isinstance(steps, (list, tuple)) for step in steps]
    said = [step.get("reduce_zero_label") for step in steps if isinstance(step, Mapping)]
    if any(said) or "reduce_zero_label" in block:
        return any(said) or bool(block["reduce_zero_label"])
    parameter = inspect.signature(_dataset_class(block)).parameters.get("reduce_zero_label")
    return parameter is not None and parameter.default is True  # ADE20K and some others


def _label_map(block: Mapping[str, Any]) -> Mapping[int, int]:
    metainfo = block.get("metainfo")
    classes = metainfo.get("classes") if isinstance(metainfo, Mapping) else None
    class_names = getattr(_dataset_class(block), "METAINFO", {}).get("classes")
    if classes is None or class_names is None or list(classes) == list(class_names):
        return {}
    strange = [name for name in classes if name not in class_names]
    if strange:
        raise OptionError(f"config: metainfo names the class '{strange[0]}', which {block['type']} does not have")
    return {old: list(classes).index(name) if name in classes else IGNORE for old, name in enumerate(class_names)}


def _ignored(block: Mapping[str, Any], config: Mapping[str, Any]) -> set[int]:
    evaluators = config.get("test_evaluator", config.get("val_evaluator"))
    blocks = [block, *(evaluators if isinstance(evaluators, (list, tuple)) else [evaluators])]
    values = (entry.get("ignore_index") for entry in blocks if isinstance(entry, Mapping))
    return {value for value in values if type(value) is int and 0 <= value < IGNORE}


def _dataset_class(block: Mapping[str, Any]) -> type:
    """The class of a data set, by name or as it is; ``object`` where there is none."""
    kind = block.get("type")
    if isinstance(kind, type):
        return kind
    with contextlib.redirect_stdout(io.StringIO()):  # its remarks on optional parts that are not installed
        import mmseg.datasets  # noqa: F401
    from mmseg.registry import DATASETS

    known = DATASETS.module_dict.get(str(kind).removeprefix("mmseg."))
    return known if isinstance(known, type) else object
