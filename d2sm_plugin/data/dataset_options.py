"""Declaring and checking the option keys of a dataset.

A dataset class names its keys by the class attribute ``options_model``, a :class:`DatasetOptions`. The dataset checks
its block with :func:`read_dataset_options` when it is built; option files are checked by the same call before anything
starts. The keys of BasicSR's own datasets are in :mod:`d2sm_plugin.data.host_datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from d2sm_plugin.blocks import Block, read_block
from d2sm_plugin.file_names import FileName

#: What is kept in memory at once, and runs beside each other; more is a slip of the hand.
MOST_AT_ONCE, MOST_WORKERS = 1 << 16, 1 << 10


class LoaderOptions(Block):
    """Keys of a dataset's block that the pipeline reads itself; a dataset ignores them."""

    type: str = Field(description="class of the dataset")
    name: FileName | None = Field(None, description="of the set, for folders and tables; none: the block's key")
    scale: PositiveInt | None = Field(None, description="ratio of the sizes; none: that of the option file")
    batch_size_per_gpu: PositiveInt = Field(
        16,
        le=MOST_AT_ONCE,
        description="samples of a process for each batch (training; without it, validation takes one at a time)",
    )
    num_worker_per_gpu: NonNegativeInt = Field(
        2, le=MOST_WORKERS, description="reading processes beside each process; 0: none"
    )
    dataset_enlarge_ratio: PositiveInt = Field(1, description="passes over the set that make one epoch")
    ratio: PositiveFloat | None = Field(
        None, description="share of this training set in what is drawn, relative to the others; none: by their sizes"
    )
    num_prefetch_queue: PositiveInt = Field(
        2, le=MOST_AT_ONCE, description="batches that each reading process keeps ready"
    )
    use_shuffle: bool | None = Field(None, description="accepted for BasicSR's sake; training data are always shuffled")
    prefetch_mode: Literal["cpu", "cuda"] | None = Field(None, description="accepted for BasicSR's sake; not used")
    pin_memory: bool | None = Field(None, description="accepted for BasicSR's sake; pinned where there is a GPU")
    persistent_workers: bool | None = Field(None, description="accepted for BasicSR's sake; they always persist")


PIPELINE_KEYS = frozenset(LoaderOptions.model_fields)


class IoBackend(Block):
    """``io_backend`` in BasicSR's dialect: where the files are."""

    model_config = ConfigDict(extra="allow")

    type: Literal["lmdb", "disk"]


class DatasetOptions(Block):
    """Base of a dataset's keys: values keep the type they were given in, ``phase`` comes from the pipeline."""

    model_config = ConfigDict(frozen=True)

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
    dataset_keys = {key: value for key, value in block.items() if key not in PIPELINE_KEYS}
    return read_block(model, dataset_keys, where or f"datasets.{block.get('phase', '?')}")
