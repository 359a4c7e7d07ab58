from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.registry import METRIC_REGISTRY

import d2sm_plugin  # noqa: F401
from d2sm_plugin.archs.stacked_hourglass_arch import StackedHourglass
from d2sm_plugin.errors import CheckpointError, DataError, OptionError, ShapeError
from d2sm_plugin.faces.landmark_table import write_landmark_table
from d2sm_plugin.faces.landmarks import HELEN29, IBUG68
from d2sm_plugin.metrics.landmark_finder import LandmarkFinder
from d2sm_plugin.metrics.nrmse_metric import NORMALISERS, calculate_nrmse, normalisers_of, nrmse
from d2sm_plugin.pipeline.metric_blocks import ImageMetric


@pytest.fixture
def face():
    """68 points whose distances are known."""
    points = np.random.default_rng(0).uniform(40, 60, (68, 2))
    points[0], points[16] = (10, 50), (110, 50)  # width 100
    points[36], points[45] = (30, 40), (70, 70)  # outer corners, counted from 0: distance 50
    points[37, 0], points[46, 0] = 35, 75  # as the authors' script has it: 40
    points[40, 0], points[43, 0] = 45, 61  # (61 + 75) / 2 - (35 + 45) / 2 = 28
    return points


def test_registered():
    assert METRIC_REGISTRY.get("calculate_nrmse") is calculate_nrmse


@pytest.mark.parametrize(
    ("normaliser", "unit"), [("width", 100), ("interocular", 50), ("eye_outer_width", 40), ("eye_dist", 28)]
)
def test_one_shift_for_all_points(face, normaliser, unit):
    assert nrmse(face + np.array([3, 4]), face, normaliser=normaliser) == pytest.approx(5 / unit)


def test_root_of_the_mean_square_not_the_mean_distance(face):
    moved = face.copy()
    moved[:17] += [0, 20]  # a quarter of the points by 20 pixels
    assert nrmse(moved, face) == pytest.approx(np.sqrt(400 / 4) / 50)
    assert nrmse(face, face) == 0


def test_the_unit_is_measured_on_the_true_points(face):
    stretched = face * [2, 1]
    assert nrmse(stretched, face, normaliser="width") == pytest.approx(np.sqrt(np.square(face[:, 0]).mean()) / 100)


def test_centres_of_the_eyes():
    points = np.zeros((29, 2))
    points[16], points[17] = (40, 50), (70, 90)
    assert NORMALISERS["interpupil"](points, HELEN29) == 50
    points[8], points[9] = (30, 50), (90, 50)
    assert calculate_nrmse(points + np.array([0, 6]), points, points="helen29") == pytest.approx(0.1)


def test_normalisers_that_a_set_does_not_define():
    assert normalisers_of(IBUG68) == list(NORMALISERS)
    assert normalisers_of(HELEN29) == ["interocular", "interpupil", "width"]
    with pytest.raises(OptionError, match=r"no 'eye_dist' for 'helen29'.*known: inter"):
        calculate_nrmse(np.zeros((29, 2)), np.zeros((29, 2)), "helen29", "eye_dist")
    with pytest.raises(OptionError, match=r"did you mean 'interocular'"):
        calculate_nrmse(np.zeros((29, 2)), np.zeros((29, 2)), "helen29", "interoccular")


def test_points_that_do_not_fit(face):
    with pytest.raises(ShapeError, match=r"68 landmarks \(ibug68\).*\(67, 2\)"):
        calculate_nrmse(face[:67], face)
    with pytest.raises(ShapeError, match=r"interocular 0; it must be above 0"):
        calculate_nrmse(face, np.zeros((68, 2)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = StackedHourglass(num_points=29, num_stack=2, num_feat=8).eval()
    path = tmp_path_factory.mktemp("hourglass") / "net_g_latest.pth"
    torch.save({"params": network.state_dict()}, path)
    return path


def test_finder_reads_its_size_from_the_checkpoint(checkpoint):
    finder = LandmarkFinder(checkpoint, "helen29", "cpu")
    assert len(finder.network.stacks) == 2
    actual = finder.find(np.zeros((3, 64, 64, 3), np.uint8))
    assert actual.shape == (3, 29, 2)
    with pytest.raises(CheckpointError, match=r"finds 29 landmarks, but 'ibug68' has 68"):
        LandmarkFinder(checkpoint)


def test_no_checkpoint_of_an_hourglass(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"no checkpoint of a StackedHourglass"):
        LandmarkFinder(tmp_path / "other.pth")


def test_faces_in_place_of_points(checkpoint):
    faces = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), np.uint8)
    options = {"points": "helen29", "normaliser": "width", "checkpoint": checkpoint}
    assert calculate_nrmse(faces[0], faces[0], **options) == 0
    actual = LandmarkFinder(checkpoint, "helen29", "cpu").find(faces[..., ::-1])
    assert calculate_nrmse(faces[0], faces[1], **options) == pytest.approx(nrmse(*actual, "helen29", "width"))
    with pytest.raises(OptionError, match=r"calculate_nrmse.checkpoint"):
        calculate_nrmse(faces[0], faces[1])


def test_faces_against_a_table_of_landmarks(checkpoint, tmp_path):
    face = np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8)
    labels = np.random.default_rng(3).uniform(5, 60, (29, 2)).astype(np.float32)
    write_landmark_table(tmp_path / "landmarks.csv", {"a.png": labels})
    (predicted,) = LandmarkFinder(checkpoint, "helen29", "cpu").find(face[None, ..., ::-1])
    metric = ImageMetric(
        {
            "type": "calculate_nrmse",
            "points": "helen29",
            "checkpoint": str(checkpoint),
            "landmarks": str(tmp_path / "landmarks.csv"),
        },
        "val.metrics.nrmse",
    )
    rgb = np.ascontiguousarray(face[..., ::-1])
    assert metric(rgb, rgb, "a") == pytest.approx(nrmse(predicted, labels, "helen29"), rel=1e-4)
    with pytest.raises(DataError, match=r"landmarks.csv: no landmarks of the face 'b'"):
        metric(rgb, rgb, "b")
