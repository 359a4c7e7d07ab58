from __future__ import annotations

import math
import pickle

import cv2
import numpy as np
import pytest
from data_samples import picture, write_png
from face_samples import drawn_face, landmark_csv
from PIL import Image

from d2sm_plugin.data.face_dataset import FaceDataset
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.prepare.face_crop import FaceSquare, square_around_landmarks, square_of_box, whole_box
from d2sm_plugin.data.prepare.face_labels import add_boxes, add_splits, read_labels
from d2sm_plugin.data.prepare.prepare_data import main
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.faces.landmark_table import read_landmark_table
from d2sm_plugin.faces.landmarks import HELEN29


def prepare(*arguments) -> None:
    assert main(["faces", *(str(argument) for argument in arguments)]) == 0


def photographs(root, count=3, size=160):
    """Drawn faces somewhere in larger photographs, and their landmarks there."""
    rows = {}
    for number in range(count):
        face, points = drawn_face(number, size=96)
        photo = picture(number + 50, (size, size + 20)).copy()
        left, top = 20 + 5 * number, 30 - 4 * number
        photo[top : top + 96, left : left + 96] = face
        write_png(root / f"p{number}.png", photo)
        rows[f"p{number}.png"] = points + np.array([left, top])
    return rows


def test_upright_square_on_whole_pixels_keeps_them():
    photo = picture(0, (60, 80))
    square = square_of_box((10, 20, 42, 52), 1.0, "x")
    assert np.array_equal(square.cut(photo, 32), photo[20:52, 10:42])
    points = np.array([[10.0, 20.0], [41.0, 51.0]])
    np.testing.assert_allclose(square.to_crop(points, 32), [[0, 0], [31, 31]], atol=1e-5)
    np.testing.assert_allclose(square.to_crop(points, 64), [[0.5, 0.5], [62.5, 62.5]], atol=1e-5)


def test_border_is_repeated_where_the_square_leaves_the_photograph():
    photo = picture(0, (60, 80))
    crop = square_of_box((-8, 0, 24, 32), 1.0, "x").cut(photo, 32)
    assert np.array_equal(crop[:, 8:], photo[:32, :24])
    assert np.array_equal(crop[:, :8], np.repeat(photo[:32, :1], 8, axis=1))


@pytest.mark.parametrize("degrees", [-30, 0, 15, 90])
def test_turned_faces_become_upright(degrees):
    face, points = drawn_face(1, size=200)
    turn = cv2.getRotationMatrix2D((100, 100), -degrees, 1.0)  # OpenCV counts anticlockwise
    turned = cv2.warpAffine(face, turn, (200, 200), borderMode=cv2.BORDER_REPLICATE)
    moved = points @ turn[:, :2].T + turn[:, 2]
    square = square_around_landmarks(moved, 1.2, HELEN29, "x")
    assert math.degrees(square.angle) == pytest.approx(degrees, abs=1e-4)
    straight = square_around_landmarks(points, 1.2, HELEN29, "x")
    assert square.side == pytest.approx(straight.side)
    np.testing.assert_allclose(square.to_crop(moved, 64), straight.to_crop(points, 64), atol=1e-3)
    difference = square.cut(turned, 64).astype(int) - straight.cut(face, 64)
    assert np.abs(difference).mean() < 6
    eyes = square.to_crop(moved, 64)[[16, 17]]
    assert eyes[0, 1] == pytest.approx(eyes[1, 1], abs=1e-3)


def test_landmarks_stay_on_the_face_when_it_is_scaled():
    face, points = drawn_face(2, size=192)
    square = square_around_landmarks(points, 1.3, None, "x")
    small = square.cut(face, 64)
    for x, y in square.to_crop(points[[16, 17]], 64).round().astype(int):
        assert small[y, x].sum() < 450  # the dark pupil, between a white eye and light skin


def test_a_set_with_splits(tmp_path):
    rows = photographs(tmp_path / "src")
    splits = {"p0.png": "train", "p1.png": "train", "p2.png": "test"}
    table = landmark_csv(tmp_path / "landmarks.csv", rows, splits)
    arguments = ("--src", tmp_path / "src", "--landmarks", table, "--out", tmp_path / "out", "--size", 64)
    prepare(*arguments)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{s}_{k}" for s in ("train", "test") for k in ("hr.lmdb", "lr.lmdb", "landmarks.csv")}
    large, small = (open_images(tmp_path / f"out/train_{kind}.lmdb") for kind in ("hr", "lr"))
    assert large.keys == small.keys == ["p0", "p1"]
    assert large.read_rgb("p1").shape == (64, 64, 3) and small.read_rgb("p1").shape == (8, 8, 3)
    points = read_landmark_table(tmp_path / "out/train_landmarks.csv")["p1"].points
    extent = points.max(axis=0) - points.min(axis=0)
    assert extent.max() == pytest.approx(64 / 1.3, abs=0.01)
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    np.testing.assert_allclose(middle, 31.5, atol=0.01)
    dataset = FaceDataset({
        "phase": "train", "scale": 8, "points": "helen29", "landmarks": str(tmp_path / "out/train_landmarks.csv"),
        "dataroot_gt": str(tmp_path / "out/train_hr.lmdb"), "dataroot_lq": str(tmp_path / "out/train_lr.lmdb"),
    })  # fmt: skip
    assert dataset[1]["lq"].shape == (3, 8, 8)
    prepare(*arguments)  # a second time: nothing to do
    with pytest.raises(DataError, match=r"overwrite"):
        prepare(*arguments, "--margin", 1.5)


def test_celeba_lists(tmp_path):
    for number in range(3):
        write_png(tmp_path / f"src/{number:06d}.jpg.png", picture(number, (100, 100)))
    names = [f"{number:06d}.jpg.png" for number in range(3)]
    points = "30 40 60 40 45 55 35 70 58 70"
    (tmp_path / "list_landmarks_celeba.txt").write_text(
        "3\nlefteye_x lefteye_y\n" + "".join(f"{name}  {points}\n" for name in names)
    )
    (tmp_path / "list_bbox_celeba.txt").write_text(
        "3\nimage_id x_1 y_1 width height\n" + "".join(f"{name}  20 20   50  60\n" for name in names)
    )
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{n} {s}\n" for n, s in zip(names, "020", strict=True)))
    labels = add_boxes(read_labels(tmp_path / "list_landmarks_celeba.txt"), tmp_path / "list_bbox_celeba.txt")
    assert labels[names[0]].points.shape == (5, 2) and labels[names[0]].box == (20, 20, 70, 80)
    labels = add_splits(labels, tmp_path / "list_eval_partition.txt")
    assert [label.split for label in labels.values()] == ["train", "test", "train"]
    prepare(
        "--src", tmp_path / "src", "--landmarks", tmp_path / "list_landmarks_celeba.txt", "--boxes",
        tmp_path / "list_bbox_celeba.txt", "--splits", tmp_path / "list_eval_partition.txt", "--out", tmp_path / "out",
        "--size", 64,
    )  # fmt: skip
    assert open_images(tmp_path / "out/train_hr.lmdb").keys == ["000000.jpg", "000002.jpg"]
    moved = read_landmark_table(tmp_path / "out/test_landmarks.csv")["000001.jpg"].points
    # the square over the box: its centre is (44.5, 49.5) and its side 60
    np.testing.assert_allclose(moved[0], [(30 - 44.5) * 64 / 60 + 31.5, (40 - 49.5) * 64 / 60 + 31.5], atol=1e-3)


def test_box_is_scaled_whatever_its_shape_and_landmarks_count_from_its_corner():
    photo = picture(0, (60, 80))
    box = whole_box((10, 20, 42, 44), "x")  # 32 wide, 24 high
    expected = Image.fromarray(photo[20:44, 10:42]).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(box.cut(photo, 64), np.asarray(expected))
    assert np.array_equal(box.cut(photo, None), photo[20:44, 10:42])
    points = np.array([[10.0, 20.0], [42.0, 44.0], [26.0, 26.0]])
    np.testing.assert_allclose(box.to_crop(points, 64), [[0, 0], [64, 64], [32, 16]], atol=1e-5)
    np.testing.assert_allclose(box.to_crop(points, None), points - [10, 20], atol=1e-5)
    beyond = whole_box((-3, 0, 21, 24), "x").cut(photo, None)
    assert np.array_equal(beyond[:, 3:], photo[:24, :21]) and (beyond[:, :3] == photo[:24, :1]).all()
    with pytest.raises(DataError, match=r"x: the face would be cut 4.0 pixels wide"):
        whole_box((0, 0, 4, 30), "x")


def test_lists_of_dicnet(tmp_path):
    """Boxes, filter and landmarks are those of its loader."""
    rows = {f"p{n}.png": np.random.default_rng(n).uniform(20, 80, (68, 2)) for n in range(2)}
    info = {name: {"landmark": points.tolist(), "bbox": [10, 10, 90, 80]} for name, points in rows.items()}
    info["p1.png"]["landmark"] = rows["p1.png"]  # an array in place of a list
    (tmp_path / "train_info_list_68.pkl").write_bytes(pickle.dumps(info))
    labels = read_labels(tmp_path / "train_info_list_68.pkl")
    np.testing.assert_allclose(labels["p1.png"].points, rows["p1.png"], rtol=1e-6)
    assert labels["p0.png"].box == (10, 10, 90, 80)
    photo = picture(0, (100, 100))
    for name in rows:
        write_png(tmp_path / "src" / name, photo)
    arguments = (
        "--src", tmp_path / "src", "--landmarks", tmp_path / "train_info_list_68.pkl", "--split", "train", "--out",
        tmp_path / "out",
    )  # fmt: skip
    prepare(*arguments)
    large = Image.fromarray(photo[10:80, 10:90]).resize((128, 128), Image.Resampling.BICUBIC)
    small = large.resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(open_images(tmp_path / "out/train_hr.lmdb").read_rgb("p0"), np.asarray(large))
    assert np.array_equal(open_images(tmp_path / "out/train_lr.lmdb").read_rgb("p0"), np.asarray(small))
    points = read_landmark_table(tmp_path / "out/train_landmarks.csv")["p0"].points
    np.testing.assert_allclose(points, (rows["p0.png"] - 10) * [128 / 80, 128 / 70], atol=1e-3)
    prepare(*arguments, "--native")
    assert np.array_equal(open_images(tmp_path / "out/train_native.lmdb").read_rgb("p1"), photo[10:80, 10:90])
    points = read_landmark_table(tmp_path / "out/train_native_landmarks.csv")["p1"].points
    np.testing.assert_allclose(points, rows["p1.png"] - 10, atol=1e-3)
    with pytest.raises(DataError, match=r"overwrite"):
        prepare(*arguments, "--reduction", "matlab")
    with pytest.raises(OptionError, match=r"--margin: a box is taken as it is"):
        prepare(*arguments, "--margin", "1.2")


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_lists_that_would_run_code_are_refused(tmp_path, capsys):
    (tmp_path / "list.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(DataError, match=r"holds a 'builtins\.print'"):
        read_labels(tmp_path / "list.pkl")
    assert capsys.readouterr().out == ""


def test_pts_files(tmp_path):
    (tmp_path / "a.pts").write_text("version: 1\nn_points:  2\n{\n1.0 1.0\n11.5 21\n}\n")
    labels = read_labels(tmp_path)
    np.testing.assert_allclose(labels["a"].points, [[0, 0], [10.5, 20]])  # they count pixels from 1
    (tmp_path / "b.pts").write_text("version: 1\n{\n1 1\n}\n")
    with pytest.raises(DataError, match=r"the same number of landmarks; found 2 .'a'., 1 .'b'."):
        read_labels(tmp_path)
    (tmp_path / "b.pts").write_text("version: 1\n1 1\n")
    with pytest.raises(DataError, match=r"between braces"):
        read_labels(tmp_path)


def test_mistakes(tmp_path):
    rows = photographs(tmp_path / "src", 2)
    table = landmark_csv(tmp_path / "landmarks.csv", {**rows, "gone.png": rows["p0.png"]})
    common = ("--src", tmp_path / "src", "--out", tmp_path / "out", "--landmarks")
    with pytest.raises(DataError, match=r"there is no image 'gone.png'"):
        prepare(*common, table)
    landmark_csv(tmp_path / "landmarks.csv", rows)
    with pytest.raises(OptionError, match=r"--size 100: it must be a multiple of --scale 8"):
        prepare(*common, table, "--size", 100)
    with pytest.raises(DataError, match=r"there is no box"):
        prepare(*common, table, "--crop", "box")
    with pytest.raises(DataError, match=r"29 landmarks a face, but ibug68 has 68"):
        prepare(*common, table, "--points", "ibug68")
    with pytest.raises(DataError, match=r"expected a file .csv, .txt, .pkl or a folder"):
        prepare(*common, tmp_path / "landmarks.json")
    landmark_csv(tmp_path / "landmarks.csv", {"p0.png": np.full((29, 2), 5.0)})
    with pytest.raises(DataError, match=r"0.0 pixels wide"):
        prepare(*common, table)
    assert not (tmp_path / "out").exists()


def test_real_faces(shared, tmp_path):
    source = shared / "data/helen29"
    table = tmp_path / "few.csv"
    lines = (source / "landmarks.csv").read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[1:9]]) + "\n")
    prepare("--src", source / "images", "--landmarks", table, "--out", tmp_path / "out", "--align")
    store = open_images(tmp_path / "out/train_hr.lmdb")
    assert len(store) == 7 and store.read_rgb(store.keys[0]).shape == (128, 128, 3)
    for row in read_landmark_table(tmp_path / "out/train_landmarks.csv").values():
        assert row.points[16, 1] == pytest.approx(row.points[17, 1], abs=0.01)
        assert row.points.min() > 10 and row.points.max() < 117


def test_square_that_is_no_face():
    with pytest.raises(DataError, match=r"face 'x': the face would be cut 4.0 pixels wide"):
        square_of_box((0, 0, 4, 4), 1.0, "face 'x'")
    assert FaceSquare((0.0, 0.0), 8.0).angle == 0
