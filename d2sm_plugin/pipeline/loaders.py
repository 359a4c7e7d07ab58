"""Datasets and loaders of a run, from the ``datasets`` block."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from d2sm_plugin.data.dataset_checks import CheckedDataset
from d2sm_plugin.data.dataset_options import LoaderOptions, read_dataset_options
from d2sm_plugin.data.draw_order import DrawOrder
from d2sm_plugin.data.draws import Draw, DrawSampler, SeededDraws
from d2sm_plugin.data.host_datasets import host_dataset_options
from d2sm_plugin.data.joined_datasets import JoinedDatasets
from d2sm_plugin.data.paired_images import check_paired_images
from d2sm_plugin.errors import D2SMError, DataError
from d2sm_plugin.options.data_sets import evaluation_blocks
from d2sm_plugin.registry import lookup


def build_dataset(block: Mapping[str, Any], where: str) -> Dataset[dict[str, Any]]:
    """Build the dataset that a block of ``datasets`` describes; messages of ours begin with ``where``."""
    cls = lookup(DATASET_REGISTRY, block["type"], f"{where}.type")
    is_ours = hasattr(cls, "options_model")
    model = cls.options_model if is_ours else host_dataset_options(cls)
    if model is not None:
        read_dataset_options(model, block, where)
    if cls is PairedImageDataset:
        check_paired_images(block, where)
    try:
        dataset = cls(deepcopy(dict(block)))  # BasicSR's datasets take keys out of their options
    except D2SMError as error:
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:  # a data set may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{where}: {cls.__name__} cannot be built ({reason})") from error
    if cls is PairedImageDataset:
        dataset.paths.sort(key=itemgetter("gt_path"))  # or the file system would decide the order of training
    return dataset if is_ours else CheckedDataset(dataset, where)


class TrainBatches:
    """The endless stream of training batches, and how far it has been read.

    Args:
        blocks: of the training sets by their key in ``datasets``. Several are read as one, see
            :class:`~d2sm_plugin.data.draw_order.DrawOrder`; batches and workers are those of ``train``.
        seed: of order, crops and noise.
        rank: of this process.
        world_size: number of processes.
        drawn: samples that all ranks together have read before (to continue a run).
        pin_memory: page-locked batches, for GPUs.
    """

    def __init__(
        self,
        blocks: Mapping[str, Mapping[str, Any]],
        seed: int,
        rank: int,
        world_size: int,
        drawn: int,
        pin_memory: bool,
    ) -> None:
        parts = {key: build_dataset(block, f"datasets.{key}") for key, block in blocks.items()}
        dataset = JoinedDatasets(parts) if len(parts) > 1 else next(iter(parts.values()))
        self.num_samples = len(dataset)  # type: ignore[arg-type]
        self.drawn = drawn
        block = blocks["train"]
        batch_size = block.get("batch_size_per_gpu", LoaderOptions.model_fields["batch_size_per_gpu"].default)
        workers = block.get("num_worker_per_gpu", LoaderOptions.model_fields["num_worker_per_gpu"].default)
        self.joint_batch = batch_size * world_size
        self.order = draw_order(blocks, [len(part) for part in parts.values()], seed)  # type: ignore[arg-type]
        sampler = DrawSampler(self.order, batch_size, rank, world_size, drawn)
        self.loader = DataLoader(
            SeededDraws(dataset, seed),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_one_batch,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # the workers' base seed must not come from the training's generator
            pin_memory=pin_memory,
            prefetch_factor=block.get("num_prefetch_queue", 2) if workers else None,
        )

    def __iter__(self) -> Generator[dict[str, Any], None, None]:
        with _in_plain_words("datasets.train", self.loader.num_workers):
            for batch in self.loader:
                self.drawn += self.joint_batch
                yield batch

    def first_sample(self) -> dict[str, Any]:
        """Return the sample that is read first, as the training will read it."""
        return self.loader.dataset[Draw(self.drawn, self.order.sample(self.drawn))]

    @property
    def epoch(self) -> int:
        """Passes over the data that are complete."""
        return self.drawn // self.order.epoch_length


def draw_order(blocks: Mapping[str, Mapping[str, Any]], lengths: Sequence[int], seed: int) -> DrawOrder:
    """Return the order in which training sets are drawn, as their blocks say it."""
    ratios = [block["ratio"] for block in blocks.values() if block.get("ratio") is not None]
    return DrawOrder(
        lengths,
        seed,
        [block.get("dataset_enlarge_ratio", 1) for block in blocks.values()],
        ratios if len(ratios) == len(blocks) else None,
        [f"datasets.{key}" for key in blocks],
    )


def _leave_signals_to_the_parent(worker: int) -> None:
    """Take a loader's worker out of the group that Ctrl-C and schedulers signal.

    A worker that died of such a signal would take the parent with it, before that has ended its step and saved. It
    ends with its parent all the same: torch's workers watch for that.
    """
    if hasattr(os, "setsid"):
        os.setsid()


@contextmanager
def _in_plain_words(where: str, workers: int) -> Iterator[None]:
    """Free errors of the traceback that torch wraps around them on their way out of a worker, and explain dead workers.

    Raises:
        DataError: when a worker has died.
    """
    try:
        yield
    except D2SMError as error:
        text = str(error)
        if not text.startswith("Caught "):
            raise
        raise type(error)(text.strip().splitlines()[-1].partition(": ")[2]) from error
    except (RuntimeError, OSError, EOFError) as error:  # the last two while its last batch is fetched
        text = " ".join(str(error).split()) or type(error).__name__
        of_torch = not isinstance(error, RuntimeError) or text.startswith("DataLoader worker")
        if not workers or text.startswith("Caught ") or not of_torch:
            raise
        raise DataError(
            f"{where}: a process that loads images has died ({text}), as happens where the system runs out of memory; "
            f"lower num_worker_per_gpu, num_prefetch_queue or batch_size_per_gpu"
        ) from error


def _one_batch(samples: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        return default_collate(samples)
    except Exception as error:  # what the samples of a data set may hold is its own affair
        shapes = {str(tuple(sample["lq"].shape)) for sample in samples if isinstance(sample.get("lq"), Tensor)}
        reason = f"images of {', '.join(sorted(shapes))}" if len(shapes) > 1 else " ".join(str(error).split())
        names = ", ".join(str(sample.get("key", sample.get("gt_path", "?"))) for sample in samples)
        raise DataError(
            f"datasets.train: the samples {names} make no batch ({reason}); set gt_size, or batch_size_per_gpu: 1"
        ) from error


def build_evaluation_loaders(
    datasets: Mapping[str, Mapping[str, Any]], phases: Sequence[str], rank: int, world_size: int
) -> dict[str, EvaluationLoader]:
    """Build one loader for each validation or test set; every rank gets its share of the images.

    Batches hold one image unless ``batch_size_per_gpu`` says otherwise, and images of one size in any case.
    """
    loaders: dict[str, EvaluationLoader] = {}
    for name, block in evaluation_blocks(datasets, phases).items():
        where = block.pop("where")
        dataset = build_dataset(block, where)
        share = Subset(dataset, range(rank, len(dataset), world_size))  # type: ignore[arg-type]
        loaders[name] = EvaluationLoader(
            share,
            where,
            -(-len(dataset) // world_size),  # type: ignore[arg-type]
            batch_size=block.get("batch_size_per_gpu", 1),
            num_workers=block.get("num_worker_per_gpu", 0),
            generator=torch.Generator(),  # validation must not touch the training's generator
            worker_init_fn=_leave_signals_to_the_parent,
            collate_fn=_batches_of_one_size,
        )
    return loaders


class EvaluationLoader(DataLoader[dict[str, Any]]):
    """A loader of batches; of images that differ in size, each batch holds neighbours of one size.

    Args:
        share: images of this rank.
        where: path of the option block, for messages.
        largest_share: number of images of the rank with the most.
        settings: of torch's loader.

    Attributes:
        rounds: groups of batches that every rank goes through; where a rank has fewer, the last ones are empty.
    """

    def __init__(self, share: Dataset[dict[str, Any]], where: str, largest_share: int, **settings: Any) -> None:
        super().__init__(share, **settings)
        self.where = where
        self.rounds = -(-largest_share // settings["batch_size"])

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for batches in self.groups():
            yield from batches

    def groups(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the batches of ``batch_size`` images at a time: one, or more where these differ in size."""
        with _in_plain_words(self.where, self.num_workers):
            yield from super().__iter__()
        yield from ([] for _ in range(self.rounds - len(self)))


def _batches_of_one_size(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collate neighbours whose tensors have one shape."""
    groups = groupby(samples, lambda sample: {key: v.shape for key, v in sample.items() if isinstance(v, Tensor)})
    return [default_collate(list(group)) for _, group in groups]
