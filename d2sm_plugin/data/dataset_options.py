"""Declaring and checking the option keys of a dataset.

A dataset class names its keys by the class attribute ``options_model``, a :class:`DatasetOptions`. The dataset checks
its block with :func:`read_dataset_options` when it is built; option files are checked by the same call before anything
starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from d2sm_plugin.errors import OptionError, suggest

#: Keys of a dataset's block that the pipeline reads itself; a dataset ignores them.
PIPELINE_KEYS = frozenset(
    {
        "name",
        "type",
        "scale",
        "batch_size_per_gpu",
        "num_worker_per_gpu",
        "use_shuffle",
        "dataset_enlarge_ratio",
        "prefetch_mode",
        "num_prefetch_queue",
        "pin_memory",
        "persistent_workers",
    }
)


class DatasetOptions(BaseModel):
    """Base of a dataset's keys: values keep the type they were given in, ``phase`` comes from the pipeline."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    phase: Literal["train", "val", "test"]


Model = TypeVar("Model", bound=DatasetOptions)


def read_dataset_options(model: type[Model], block: Mapping[str, Any], where: str | None = None) -> Model:
    """Return a dataset's block of options, checked.

    Args:
        model: the dataset class's ``options_model``.
        block: the block as it stands in the option file, plus ``phase``.
        where: path of the block for messages; ``datasets.<phase>`` where None.

    Raises:
        OptionError: for an unknown key (with the nearest known one), a missing key or a value of the wrong type.
    """
    where = where or f"datasets.{block.get('phase', '?')}"
    own = {str(key): value for key, value in block.items() if key not in PIPELINE_KEYS}
    for key in own:
        if key not in model.model_fields:
            raise OptionError(f"{where}.{key}: unknown key{suggest(key, model.model_fields)}")
    try:
        return model.model_validate(own)
    except ValidationError as error:
        raise OptionError(_explain(error, where)) from None


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join([where, *map(str, first["loc"])])
    if first["type"] == "missing":
        return f"{path}: this key is missing"
    if first["type"] == "value_error":  # raised by a model's own check, which words the whole message
        return f"{path}: {first['ctx']['error']}"
    return f"{path}: {first['msg']}, got {first['input']!r}"
