"""One confusion matrix over a whole set, and the scores read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from d2sm_plugin.errors import DataError, ShapeError

_VALUES = 256  # label images are 8 bit


@dataclass(frozen=True)
class SegScores:
    """Scores of a confusion matrix in percent, NaN where they are not defined.

    Attributes:
        miou: mean of the classes' IoU; classes neither labelled nor predicted do not count.
        aacc: share of the counted pixels that are right.
        macc: mean of the classes' accuracy; classes not labelled do not count.
        iou: intersection over union by class.
        acc: share of the class's pixels that are right (recall) by class.
    """

    miou: float
    aacc: float
    macc: float
    iou: dict[str, float]
    acc: dict[str, float]


class ConfusionMatrix:
    """Counts of (labelled class, predicted class) over all pixels, exact in int64.

    Args:
        num_classes: C, at most 255.
        ignore: label values that do not count.
        device: where the counts are kept; predictions and labels are expected there.
    """

    def __init__(self, num_classes: int, ignore: Sequence[int] = (255,), device: str | torch.device = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        # Row of the counts that a label value goes to: its class, one for ignored values, one for values outside.
        rows = torch.full((_VALUES,), num_classes + 1, dtype=torch.int64)
        rows[:num_classes] = torch.arange(num_classes)
        rows[list(ignore)] = num_classes
        self._first_cell = (rows * num_classes).to(device)

    def reset(self) -> None:
        """Set all counts to zero."""
        self.counts.zero_()

    def update(self, prediction: Tensor, label: Tensor) -> Tensor:
        """Count pixels.

        Args:
            prediction: classes 0 to C-1, integers of any shape.
            label: same shape; classes, or ignored values.

        Returns:
            The counts of these pixels alone, (C, C) int64.

        Raises:
            ShapeError: when the shapes differ or the prediction is outside the classes.
            DataError: when label values are neither classes nor ignored; nothing is counted then.
        """
        if prediction.shape != label.shape:
            raise ShapeError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
        if not prediction.numel():
            return torch.zeros_like(self.counts)
        low, high = (int(value) for value in prediction.aminmax())
        if low < 0 or high >= self.num_classes:
            raise ShapeError(f"predictions {low} to {high} are outside the {self.num_classes} classes")
        index = label.long()
        if label.dtype != torch.uint8 and (int(index.min()) < 0 or int(index.max()) >= _VALUES):
            raise DataError(f"label values {int(index.min())} to {int(index.max())} do not fit in 0 to {_VALUES - 1}")
        classes = self.num_classes
        cells = torch.bincount((self._first_cell[index] + prediction).flatten(), minlength=(classes + 2) * classes)
        table = cells.view(classes + 2, classes)
        if int(table[-1].sum()):
            outside = sorted({int(v) for v in index.unique() if int(self._first_cell[v]) // classes == classes + 1})
            raise DataError(
                f"label values {', '.join(map(str, outside))} are outside the {classes} classes and not ignored"
            )
        self.counts += table[:classes]
        return table[:classes]

    def only_class(self) -> int | None:
        """Return the class of all labelled pixels, None where there are several classes or no labels."""
        labelled = self.counts.sum(1).nonzero().flatten().tolist()
        return labelled[0] if len(labelled) == 1 else None

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes."""
        self.counts += other.counts.to(self.counts.device)

    def all_reduce(self) -> None:
        """Sum the counts over all ranks, in place on each; every rank must call it. Alone, it does nothing."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        on_gpu = dist.get_backend() == "nccl"
        total = self.counts.to("cuda" if on_gpu else "cpu")
        dist.all_reduce(total)
        self.counts.copy_(total)

    def scores(self, names: Sequence[str] | None = None) -> SegScores:
        """Return the scores, defined as in mmsegmentation's ``IoUMetric``.

        A class that is predicted but never labelled has IoU 0 (it counts in mIoU) and no accuracy; a class that is
        neither has neither.

        Args:
            names: of the classes; their numbers where left out.
        """
        return scores_of(self.counts, names)


def scores_of(table: Tensor, names: Sequence[str] | None = None) -> SegScores:
    """Return the scores of counts (C, C), of one image for example; see :meth:`ConfusionMatrix.scores`."""
    names = [str(i) for i in range(len(table))] if names is None else list(names)
    counts = table.cpu().numpy().astype(np.float64)
    right, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    iou = 100 * _ratio(right, labelled + predicted - right)
    acc = 100 * _ratio(right, labelled)
    return SegScores(
        miou=_mean(iou),
        aacc=float(100 * _ratio(right.sum(), labelled.sum())),
        macc=_mean(acc),
        iou=dict(zip(names, iou.tolist(), strict=True)),
        acc=dict(zip(names, acc.tolist(), strict=True)),
    )


def class_counts(counts: Tensor) -> NDArray[np.int64]:
    """Return what IoU is made of, (2, C): pixels of intersection and of union of every class in counts (C, C)."""
    table = counts.cpu().numpy()
    right = np.diag(table)
    return np.stack([right, table.sum(0) + table.sum(1) - right])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are defined, NaN when none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
