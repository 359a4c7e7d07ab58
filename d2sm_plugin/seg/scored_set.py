"""One set of images under scoring: segmented in batches of one size and counted in one confusion matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2sm_plugin.data.image_store import ImageStore
from d2sm_plugin.errors import DataError
from d2sm_plugin.seg.classes import ClassSet
from d2sm_plugin.seg.confusion import ConfusionMatrix, SegScores, class_counts, scores_of
from d2sm_plugin.seg.label_values import AS_STORED
from d2sm_plugin.seg.segmentor import Segmentor


class Segmented(NamedTuple):
    """An image of the set with its predicted classes.

    Attributes:
        key: of the image.
        image: (3, H, W) as it was added.
        classes: (H, W) int64.
        counts: pixels of intersection and of union by class, (2, C).
        scores: of this image alone.
    """

    key: str
    image: Tensor
    classes: Tensor
    counts: NDArray[np.int64]
    scores: SegScores


class ScoredSet:
    """Images that are segmented, and the scores of all of them together.

    Args:
        segmentor: the judge.
        classes: what label values mean.
        root: of the labels, for messages.
        describe: names the label of a key, for messages.
        batch_size: images of one size that are segmented at once; they wait until there are so many.
    """

    def __init__(
        self,
        segmentor: Segmentor,
        classes: ClassSet,
        root: object,
        describe: Callable[[str], str],
        batch_size: int = 1,
    ) -> None:
        self.segmentor, self.classes, self.batch_size = segmentor, classes, batch_size
        self.root, self.describe = root, describe
        self.matrix = ConfusionMatrix(len(classes), classes.ignore, segmentor.device)
        self._waiting: list[tuple[str, Tensor, Tensor]] = []

    def add(self, key: str, image: Tensor, label: Tensor) -> list[Segmented]:
        """Add an image.

        Args:
            key: of the image.
            image: (3, H, W) RGB, uint8 or floats in [0, 1], which are clipped and rounded to 8 bit.
            label: (H, W) integers.

        Returns:
            The images that are segmented and counted now.

        Raises:
            DataError: when a label has values outside the classes; the message names it.
        """
        segmented = []
        if self._waiting and self._waiting[0][1].shape != image.shape:
            segmented = self.flush()
        self._waiting.append((key, image, label))
        if len(self._waiting) >= self.batch_size:
            segmented += self.flush()
        return segmented

    def is_waiting(self, key: str) -> bool:
        """Tell if an image has been added and not been segmented yet."""
        return any(key == waiting for waiting, _, _ in self._waiting)

    def flush(self) -> list[Segmented]:
        """Segment and count the images that wait, and return them."""
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        predictions = self.segmentor.predict(torch.stack([image for _, image, _ in waiting]))
        segmented = []
        for (key, image, label), prediction in zip(waiting, predictions, strict=True):
            try:
                counts = self.matrix.update(prediction, label.to(prediction.device))
            except DataError as error:
                raise DataError(f"{self.describe(key)}: {error}; expected the classes '{self.classes.name}'") from None
            scores = scores_of(counts, self.classes.names)
            segmented.append(Segmented(key, image, prediction, class_counts(counts), scores))
        return segmented

    def scores(self) -> SegScores:
        """Return the scores of the images of all processes, each of which must call it; :meth:`flush` comes first.

        A set whose labelled pixels are all of one class gets a warning, as its scores say little.
        """
        self.matrix.all_reduce()
        only = self.matrix.only_class()
        if only is not None:
            logging.getLogger("basicsr").warning(
                f"{self.root}: all pixels that count are of the class '{self.classes.names[only]}'; so it is with "
                f"masks stored as 0 and 255, because 255 does not count: store classes as 0, 1, ..."
            )
        return self.matrix.scores(self.classes.names)


def read_label_for(
    labels: ImageStore, key: str, size: Sequence[int], image: str, values: NDArray[np.uint8] = AS_STORED
) -> Tensor:
    """Return the label map of an image as it counts.

    Args:
        labels: where label maps are.
        key: of the image.
        size: (height, width) of the image.
        image: names the image in the message.
        values: the class that counts for each stored value, see :mod:`d2sm_plugin.seg.label_values`.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: when there is none, it cannot be read, or its size differs.
    """
    if key not in labels:
        raise DataError(f"{labels.root}: no label for the image '{key}'; every image needs one of the same name")
    label = labels.read_label(key)
    if label.shape != tuple(size):
        raise DataError(
            f"{labels.describe(key)}: the label is {label.shape[1]}x{label.shape[0]}, but {image} is "
            f"{size[1]}x{size[0]}; labels and images must have one size"
        )
    return torch.from_numpy(values[label])
