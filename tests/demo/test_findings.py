from __future__ import annotations

import numpy as np
import pytest
import torch

from d2sm_plugin.demo.findings import miou_difference, sentences
from d2sm_plugin.pipeline.image_records import RECORDS, ImageRecord, write_records
from d2sm_plugin.studies.bootstrap import Difference
from d2sm_plugin.studies.evaluation.divergence_report import Divergence
from d2sm_plugin.studies.evaluation.paired_statistics import PairedStatistics


def divergence(method: str, image_kl: list[float]) -> Divergence:
    means = PairedStatistics(*(torch.tensor(np.mean(image_kl)) for _ in PairedStatistics._fields))
    return Divergence("view", 50.0, method, 8, 1, means, np.array(image_kl))


def test_miou_of_two_tests_is_compared_scene_by_scene(tmp_path):
    for name, right in (("with", 60), ("without", 50)):
        counts = np.array([[right, right], [100, 100]])
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / RECORDS, {"s": [ImageRecord(k, {}, counts) for k in "ab"]}, ["road", "sky"])
    assert miou_difference(tmp_path / "with", tmp_path / "without", "s") == pytest.approx((10, 10, 10, 1, 2, 2, 2))


def test_sentences_claim_no_gain_that_is_not_there():
    measured = {50.0: {"L1": divergence("L1", [2.0, 4.0]), "D2SM": divergence("D2SM", [1.8, 3.6])}}
    first, second = sentences(measured, "L1", "D2SM", Difference(0.1, -0.2, 0.4, 1, 2, 2, 1))
    assert first == "Divergence from the clean scenes at σ = 50: D2SM lies 10.0 ± 3.3 % below L1."
    assert second.startswith(
        "MIoU: no gain shows on generated scenes (+0.10 points at σ = 50, 95 % interval over scenes"
    )
    [_, told] = sentences(measured, "L1", "D2SM", Difference(0.5, 0.2, 0.8, 1, 2, 2, 2))
    assert told == "MIoU: D2SM differs from L1 by +0.50 points at σ = 50, 95 % interval over scenes +0.20 to +0.80."
    [_, alone] = sentences(measured, "L1", "D2SM", Difference(0.5, None, None, 1, 1, 1, 1))
    assert alone == "MIoU: one scene tells nothing of others."
