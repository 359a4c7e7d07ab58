from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from data_samples import write_png
from face_samples import drawn_face, face_folder, landmark_csv

from d2sm_plugin.data.face_dataset import DATASET_REGISTRY, FaceDataset, stretch
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.faces.heatmaps import read_heatmaps
from d2sm_plugin.faces.landmark_table import read_landmark_table, write_landmark_table
from d2sm_plugin.faces.landmarks import HELEN29


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return face_folder(tmp_path_factory.mktemp("faces") / "hr")


def block(faces, **changes):
    folder, table = faces
    options = {"type": "FaceDataset", "phase": "train", "scale": 8, "points": "helen29"}
    return {**options, "dataroot_gt": str(folder), "landmarks": str(table), **changes}


def test_one_face(faces):
    assert DATASET_REGISTRY.get("FaceDataset") is FaceDataset
    dataset = FaceDataset(block(faces, phase="val"))
    item = dataset[2]
    assert len(dataset) == 4 and item["key"] == "face_2" and item["gt_path"].endswith("face_2.png")
    face, points = drawn_face(2)
    assert item["gt"].dtype == item["lq"].dtype == torch.float32
    assert torch.equal(item["gt"], torch.from_numpy(face).permute(2, 0, 1).float().div(255))
    assert item["lq"].shape == (3, 8, 8)
    np.testing.assert_allclose(item["landmarks"], points, atol=1e-4)
    assert item["gt_heatmaps"].shape == (29, 16, 16)
    inside = (points >= 2) & (points <= 61)
    close = np.abs(read_heatmaps(item["gt_heatmaps"], refinement="none").numpy() - points) <= 2.001
    assert close[inside].all()
    again = FaceDataset(block(faces, phase="val"))[2]
    assert torch.equal(again["lq"], item["lq"])


def test_small_faces_from_a_store_equal_those_made_here(faces, tmp_path):
    made = FaceDataset(block(faces, phase="val"))
    for index in range(4):
        small = made[index]["lq"].mul(255).round().byte().permute(1, 2, 0).numpy()
        write_png(tmp_path / "lr" / f"face_{index}.png", small)
    stored = FaceDataset(block(faces, phase="val", dataroot_lq=str(tmp_path / "lr")))
    assert all(torch.equal(stored[index]["lq"], made[index]["lq"]) for index in range(4))


def test_landmarks_go_with_the_pixels(faces):
    """The pupils are the darkest spots of the drawn eyes, wherever flips and turns put them."""
    dataset = FaceDataset(block(faces, use_hflip=True, use_rot=True))
    plain = FaceDataset(block(faces, phase="val"))
    random.seed(3)
    seen = set()
    for draw in range(40):
        item, original = dataset[draw % 4], plain[draw % 4]
        for eye in HELEN29.eyes:
            x, y = item["landmarks"][eye[0]].round().int().tolist()
            assert item["gt"][:, y, x].sum() < 0.9
        for size in ("gt", "lq"):  # nothing but moved pixels
            torch.testing.assert_close(item[size].sort().values.sum(), original[size].sum())
        eyes = item["landmarks"][17] - item["landmarks"][16]
        nose = item["landmarks"][20] - item["landmarks"][16]
        assert eyes[0] * nose[1] - eyes[1] * nose[0] > 0  # left stays left: a flip exchanges the eyes
        seen.add((item["landmarks"][17] - item["landmarks"][16]).sign().abs().argmax().item())
        seen.add(tuple(torch.equal(item["gt"], picture) for picture in (original["gt"], original["gt"].flip(2))))
    assert len(seen) > 3


def test_flipped_small_face_belongs_to_the_flipped_large_one(faces):
    dataset = FaceDataset(block(faces, use_hflip=True, use_rot=True))
    random.seed(0)
    for _ in range(8):
        item = dataset[1]
        coarse = torch.nn.functional.avg_pool2d(item["gt"][None], 8)[0]
        assert (coarse - item["lq"]).abs().mean() < 0.03


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.2, 2.0])
def test_stretching_keeps_all_landmarks(ratio):
    face, points = drawn_face(5)
    stretched, moved = stretch(face, points.astype(np.float32), ratio)
    assert stretched.shape == face.shape
    low, high = points.min(axis=0), points.max(axis=0)
    if low.min() >= 0 and high.max() <= 63:
        assert moved.min() > -1 and moved.max() < 64
    if ratio == 1:
        assert np.array_equal(stretched, face)
        np.testing.assert_allclose(moved, points, rtol=1e-5)
    kept = 0 if ratio < 1 else 1
    np.testing.assert_allclose(moved[:, kept], points[:, kept], rtol=1e-5)
    assert (moved[:, 1 - kept].max() - moved[:, 1 - kept].min()) >= (high - low)[1 - kept] - 1e-3


def test_distorted_training_faces(faces):
    dataset = FaceDataset(block(faces, distort=[0.66, 1.33]))
    random.seed(1)
    items = [dataset[0] for _ in range(6)]
    assert len({item["gt"].sum().item() for item in items}) > 3
    assert all(item["lq"].shape == (3, 8, 8) for item in items)


def test_mistakes(faces, tmp_path):
    folder, table = faces
    with pytest.raises(OptionError, match=r"datasets\.val: use_hflip: for training only"):
        FaceDataset(block(faces, phase="val", use_hflip=True))
    with pytest.raises(OptionError, match=r"datasets\.train\.landmark: unknown key; did you mean 'landmarks'"):
        FaceDataset(block(faces, landmark="x"))
    with pytest.raises(OptionError, match=r"'ibug68' has 68 landmarks, but .* has 29 a face"):
        FaceDataset(block(faces, points="ibug68"))
    with pytest.raises(DataError, match=r"1 of the 4 faces"):
        rows = {f"face_{number}": drawn_face(number)[1] for number in range(3)}
        FaceDataset(block((folder, landmark_csv(tmp_path / "short.csv", rows))))
    write_png(tmp_path / "odd" / "face_0.png", drawn_face(0)[0][:60])
    with pytest.raises(DataError, match=r"64x60.*expected a square"):
        FaceDataset(block((tmp_path / "odd", table)))[0]
    for number in range(4):
        write_png(tmp_path / "lr" / f"face_{number}.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match=r"16x16.*with scale 8 they do not fit"):
        FaceDataset(block(faces, dataroot_lq=str(tmp_path / "lr")))[0]


def test_table_comes_back(tmp_path):
    rows = {"b": np.array([[1.25, 2.0], [3.0, -4.5]]), "a": np.zeros((2, 2))}
    assert write_landmark_table(tmp_path / "out/t.csv", rows)
    assert (tmp_path / "out/t.csv").read_text().splitlines()[0] == "image,x0,y0,x1,y1"
    read = read_landmark_table(tmp_path / "out/t.csv")
    assert list(read) == ["a", "b"] and read["b"].split is None
    np.testing.assert_array_equal(read["b"].points, rows["b"])
    assert not write_landmark_table(tmp_path / "out/t.csv", rows)
    with pytest.raises(DataError, match=r"--overwrite"):
        write_landmark_table(tmp_path / "out/t.csv", {"a": np.ones((2, 2))})
    assert write_landmark_table(tmp_path / "out/t.csv", {"a": np.ones((2, 2))}, overwrite=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x0\na,1\n", "missing: y0"),
        ("name,x0,y0\n", "missing: image"),
        ("image,x0,y0\na,1,b\n", "line 2: coordinates must be numbers"),
        ("image,x0,y0\na,1,nan\n", "line 2: expected pairs of finite"),
        ("image,x0,y0\na,1\n", "line 2: 2 values, but the header names 3"),
        ("image,x0,y0\na,1,2\na,1,2\n", "line 3: 'a' is there twice"),
        ("image,x0,y0\n", "holds no face"),
        (None, "cannot be read"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_landmark_table(path)
