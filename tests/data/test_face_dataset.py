from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from data_samples import write_png
from face_samples import drawn_face, face_folder, landmark_csv
from PIL import Image

from d2sm_plugin.data.face_dataset import DATASET_REGISTRY, FaceDataset
from d2sm_plugin.data.face_scaling import cut_distorted, reduce_face, scale_face
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


#: First and last pixel (behind) of DICNet's part of 100x100 pixels, by its own loader: two landmarks -> ratio -> part.
DISTORTED = {
    ((20.5, 40.25), (70.0, 93.5)): {0.66: (33, 99), 0.8: (20, 100), 1.2: (3, 86), 1.33: (7, 82)},
    ((30.0, 35.0), (60.0, 70.0)): {0.66: (19, 85), 0.8: (12, 92), 1.2: (3, 86), 1.33: (7, 82)},
    ((2.0, 3.0), (55.0, 60.0)): {0.66: (0, 66), 0.8: (0, 80), 1.2: (0, 83), 1.33: (0, 75)},
    ((5.0, 30.0), (96.0, 60.0)): {0.66: (12, 78), 0.8: (5, 85), 1.2: (5, 96), 1.33: (5, 96)},
}


@pytest.mark.parametrize("landmarks", DISTORTED)
def test_distorted_part_is_that_of_dicnets_loader(landmarks):
    face = drawn_face(3, size=100)[0]
    points = np.array(landmarks, np.float32)
    for ratio, (first, last) in DISTORTED[landmarks].items():
        part, moved = cut_distorted(face, points, ratio)
        assert np.array_equal(part, face[first:last] if ratio < 1 else face[:, first:last])
        np.testing.assert_allclose(moved + ([0, first] if ratio < 1 else [first, 0]), points, atol=1e-5)
        scaled, placed = scale_face(part, moved, 64)
        height, width = part.shape[:2]
        assert np.array_equal(scaled, np.asarray(Image.fromarray(part).resize((64, 64), Image.Resampling.BICUBIC)))
        np.testing.assert_allclose(placed, moved * [64 / width, 64 / height], rtol=1e-6)
    whole, unmoved = cut_distorted(face, points, 1.0)
    assert np.array_equal(whole, face) and np.array_equal(unmoved, points)


def test_landmarks_outside_do_not_restrict_the_part():
    face = drawn_face(3, size=64)[0]
    part, moved = cut_distorted(face, np.array([[-30, -20], [90, 80]], np.float32), 0.5)
    assert part.shape == (64, 64, 3) and np.array_equal(moved, [[-30, -20], [90, 80]])
    single = np.array([[10, 20]], np.float32)
    assert cut_distorted(face, single, 0.5)[0].shape == (32, 64, 3)


def test_reductions():
    face = drawn_face(4, size=64)[0]
    expected = np.asarray(Image.fromarray(face).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(reduce_face(face, 8, "pil"), expected)
    difference = np.abs(reduce_face(face, 8).astype(int) - expected)
    assert 0 < difference.max() < 30 and difference[2:-2, 2:-2].max() <= 1  # MATLAB mirrors the border
    with pytest.raises(OptionError, match=r"reduction 'pill' is unknown; did you mean 'pil'"):
        reduce_face(face, 8, "pill")


def test_faces_of_any_shape_are_scaled_to_a_size(tmp_path):
    face, points = drawn_face(1, size=90)
    write_png(tmp_path / "native" / "a.png", face[10:])  # 80 high, 90 wide
    table = landmark_csv(tmp_path / "native.csv", {"a": points - [0, 10]})
    item = FaceDataset(block((tmp_path / "native", table), phase="val", size=64, reduction="pil", heatmap_stride=2))[0]
    scaled = Image.fromarray(face[10:]).resize((64, 64), Image.Resampling.BICUBIC)
    small = scaled.resize((8, 8), Image.Resampling.BICUBIC)
    for name, expected in (("gt", scaled), ("lq", small)):
        assert np.array_equal(item[name].mul(255).round().byte().permute(1, 2, 0).numpy(), np.asarray(expected))
    np.testing.assert_allclose(item["landmarks"], (points - [0, 10]) * [64 / 90, 64 / 80], atol=1e-3)
    assert item["gt_heatmaps"].shape == (29, 32, 32)
    places = read_heatmaps(item["gt_heatmaps"], stride=2, refinement="none").numpy()
    inside = ((item["landmarks"] > 1) & (item["landmarks"] < 62)).all(1)
    assert (np.abs(places - item["landmarks"].numpy())[inside] <= 1.001).all()
    with pytest.raises(OptionError, match=r"dataroot_lq: with size, small faces are made from the scaled ones"):
        FaceDataset(block((tmp_path / "native", table), size=64, dataroot_lq=str(tmp_path / "native")))


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
