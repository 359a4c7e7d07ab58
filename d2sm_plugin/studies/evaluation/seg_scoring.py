"""Scoring one set of images: reads ahead, segments in batches, counts, and names the file when something is wrong."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from basicsr.metrics import calculate_psnr
from numpy.typing import NDArray
from torch import Tensor

from d2sm_plugin.data.image_store import ImageStore
from d2sm_plugin.errors import DataError
from d2sm_plugin.pipeline.image_records import ImageRecord
from d2sm_plugin.seg.classes import ClassSet
from d2sm_plugin.seg.confusion import SegScores
from d2sm_plugin.seg.scored_set import ScoredSet, Segmented, read_label_for
from d2sm_plugin.seg.segmentor import Segmentor
from d2sm_plugin.studies.evaluation.methods import Image, Method

T = TypeVar("T")

#: Threads that read and decode files while the network works.
_READERS = 2


@dataclass(frozen=True)
class MethodScores:
    """Measurements of one method.

    Attributes:
        name: of the method.
        scores: of the confusion matrix over all its images.
        psnr: mean over the images in dB; None without clean images.
        images: the same of each image: ``mIoU``, ``aAcc``, ``mAcc`` in percent where they are defined, ``psnr`` in dB.
    """

    name: str
    scores: SegScores
    psnr: float | None
    images: tuple[ImageRecord, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class _Sample:
    key: str
    image: Image
    label: Tensor
    psnr: float | None


def score_method(
    method: Method,
    labels: ImageStore,
    classes: ClassSet,
    segmentor: Segmentor,
    clean: Method | None = None,
    batch_size: int = 4,
    on_image: Callable[[str, Image, NDArray[np.int64]], None] | None = None,
) -> MethodScores:
    """Segment all images of a method and score them over the whole set.

    Args:
        method: gives an image for every key of ``labels``.
        labels: label maps.
        classes: what their values mean.
        segmentor: the judge.
        clean: reference images for PSNR (mean of the images' PSNR, 8-bit RGB); None measures none.
        batch_size: images of one size that are segmented at once.
        on_image: called with key, image and predicted classes (H, W) after each image.

    Raises:
        DataError: when an image or label cannot be read, their sizes differ, or a label has values outside the
            classes; the message names the file.
    """

    def load(key: str) -> _Sample:
        image = method.read(key)
        label = read_label_for(labels, key, image.shape[:2], method.describe(key), segmentor.label_values)
        return _Sample(key, image, label, None if clean is None else _psnr(method, clean, key, image))

    psnr: dict[str, float] = {}
    records: list[ImageRecord] = []

    def keep(segmented: Iterable[Segmented]) -> None:
        for key, image, predicted, counts, scores in segmented:
            values = {"mIoU": scores.miou, "aAcc": scores.aacc, "mAcc": scores.macc}
            if key in psnr:
                values["psnr"] = psnr[key]
            records.append(ImageRecord(key, {name: v for name, v in values.items() if not math.isnan(v)}, counts))
            if on_image is not None:
                on_image(key, image.permute(1, 2, 0).numpy(), predicted.cpu().numpy())

    scored = ScoredSet(segmentor, classes, labels.root, labels.describe, batch_size)
    for sample in _read_ahead(load, labels.keys, 0 if method.computed else _READERS, 2 * batch_size):
        if sample.psnr is not None:
            psnr[sample.key] = sample.psnr
        keep(scored.add(sample.key, torch.from_numpy(sample.image).permute(2, 0, 1), sample.label))
    keep(scored.flush())
    mean = float(np.mean(list(psnr.values()))) if psnr else None
    return MethodScores(method.name, scored.scores(), mean, tuple(records))


def _psnr(method: Method, clean: Method, key: str, image: Image) -> float:
    reference = clean.read(key)
    if reference.shape != image.shape:
        raise DataError(
            f"{method.describe(key)}: the image is {image.shape[1]}x{image.shape[0]}, but {clean.describe(key)} is "
            f"{reference.shape[1]}x{reference.shape[0]}; they must be equal"
        )
    return float(calculate_psnr(image, reference, crop_border=0))


def _read_ahead(load: Callable[[str], T], keys: Iterable[str], threads: int, ahead: int) -> Iterator[T]:
    """Yield ``load(key)`` in order, with up to ``ahead`` of them under way in ``threads``; 0 threads: one by one."""
    if not threads:
        yield from map(load, keys)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for key in keys:
                waiting.append(pool.submit(load, key))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
