from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.classification import MulticlassConfusionMatrix

from d2sm_plugin.errors import DataError, ShapeError
from d2sm_plugin.seg.confusion import ConfusionMatrix


def random_maps(classes: int, seed: int, ignored: float = 0.2, absent: tuple[int, ...] = ()):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (3, 24, 31), generator=generator)
    noise = torch.randint(classes, label.shape, generator=generator)
    prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.6, label, noise)
    for value in absent:
        prediction[prediction == value] = 1
        label[label == value] = 1
    label[torch.rand(label.shape, generator=generator) < ignored] = 255
    return prediction, label.to(torch.uint8)


def matrix_of(prediction, label, classes, **kwargs):
    matrix = ConfusionMatrix(classes, **kwargs)
    matrix.update(prediction, label)
    return matrix


@pytest.mark.parametrize("classes", [2, 11, 19, 150])
def test_counts_equal_sklearn_and_torchmetrics(classes):
    prediction, label = random_maps(classes, seed=classes)
    counts = matrix_of(prediction, label, classes).counts
    keep = label != 255
    table = counts.numpy()
    assert (table == confusion_matrix(label[keep], prediction[keep], labels=range(classes))).all()
    reference = MulticlassConfusionMatrix(classes, ignore_index=255)
    assert torch.equal(counts, reference(prediction, label.long()))


@pytest.mark.parametrize("absent", [(), (3,), (0, 5, 7)])
def test_scores_equal_those_of_mmseg(absent):
    metric_type = pytest.importorskip("mmseg.evaluation").IoUMetric
    prediction, label = random_maps(8, seed=5, absent=absent)
    areas = [metric_type.intersect_and_union(p, t.long(), 8, 255) for p, t in zip(prediction, label, strict=True)]
    reference = metric_type.total_area_to_metrics(*(sum(column) for column in zip(*areas, strict=True)), ["mIoU"])
    scores = matrix_of(prediction, label, 8).scores()
    np.testing.assert_allclose(list(scores.iou.values()), 100 * np.asarray(reference["IoU"]), rtol=1e-6)
    np.testing.assert_allclose(list(scores.acc.values()), 100 * np.asarray(reference["Acc"]), rtol=1e-6)
    assert scores.aacc == pytest.approx(100 * float(reference["aAcc"]), rel=1e-6)
    assert scores.miou == pytest.approx(100 * np.nanmean(reference["IoU"]), rel=1e-6)
    assert scores.macc == pytest.approx(100 * np.nanmean(reference["Acc"]), rel=1e-6)
    assert sum(math.isnan(v) for v in scores.iou.values()) == len(absent)


def test_whole_metric_equals_mmseg_with_rounding():
    metric_type = pytest.importorskip("mmseg.evaluation").IoUMetric
    prediction, label = random_maps(11, seed=8, absent=(9,))
    metric = metric_type()
    metric.dataset_meta = {"classes": [str(i) for i in range(11)]}
    samples = [{"pred_sem_seg": {"data": p}, "gt_sem_seg": {"data": t}} for p, t in zip(prediction, label, strict=True)]
    metric.process({}, samples)
    reference = metric.compute_metrics(metric.results)
    scores = matrix_of(prediction, label, 11).scores()
    in_percent = {"aAcc": scores.aacc, "mIoU": scores.miou, "mAcc": scores.macc}
    assert {name: round(value, 2) for name, value in in_percent.items()} == pytest.approx(
        {name: float(value) for name, value in reference.items()}, abs=0.0101
    )


def test_class_predicted_but_never_labelled_counts_in_miou_only():
    prediction, label = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 1, 1])
    scores = matrix_of(prediction, label, 4).scores(["a", "b", "c", "d"])
    assert scores.iou["c"] == 0
    assert math.isnan(scores.acc["c"])
    assert math.isnan(scores.iou["d"])
    assert scores.miou == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)
    assert scores.macc == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_nothing_counted_gives_nan():
    scores = matrix_of(torch.zeros(4, dtype=torch.int64), torch.full((4,), 255), 3).scores()
    assert all(math.isnan(v) for v in (scores.miou, scores.aacc, scores.macc))


def test_other_ignored_values_and_merge():
    prediction, label = random_maps(5, seed=1)
    marked = label.clone()
    marked[label == 255] = 11
    whole = matrix_of(prediction, marked, 5, ignore=(11, 255))
    assert torch.equal(whole.counts, matrix_of(prediction, label, 5).counts)
    first = matrix_of(prediction[:1], label[:1], 5)
    first.merge(matrix_of(prediction[1:], label[1:], 5))
    assert torch.equal(first.counts, whole.counts)
    first.reset()
    assert int(first.counts.sum()) == 0


def test_counts_are_exact_beyond_float32():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**24
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    assert int(matrix.counts[0, 0]) == 2**24 + 1


@pytest.mark.parametrize(
    ("prediction", "label", "error", "words"),
    [
        ([0, 1], [0, 7], DataError, "7 are outside the 3 classes"),
        ([0, 1], [0, 300], DataError, "300"),
        ([0, 1], [0, -1], DataError, "-1"),
        ([0, 3], [0, 1], ShapeError, "outside the 3 classes"),
        ([0, -1], [0, 1], ShapeError, "outside the 3 classes"),
        ([0, 1, 2], [0, 1], ShapeError, "differ in shape"),
    ],
)
def test_errors_leave_the_counts_alone(prediction, label, error, words):
    matrix = ConfusionMatrix(3)
    with pytest.raises(error, match=words):
        matrix.update(torch.tensor(prediction), torch.tensor(label))
    assert int(matrix.counts.sum()) == 0


def test_all_reduce_alone_does_nothing():
    prediction, label = random_maps(6, seed=3)
    matrix = matrix_of(prediction, label, 6)
    before = matrix.counts.clone()
    matrix.all_reduce()
    assert torch.equal(matrix.counts, before)
