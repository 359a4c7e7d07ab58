"""No name that comes from data leads out of the folder it belongs into, in any tool."""

from __future__ import annotations

import numpy as np
import pytest
from data_samples import image_folder, picture, raw_store, write_png

from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.keys import check_key, check_name
from d2sm_plugin.data.prepare.prepare_data import main
from d2sm_plugin.errors import DataError
from d2sm_plugin.pipeline.validation import image_keys

LEADING_OUT = [
    "/abs/x",
    "../../x",
    "a/../../x",
    "a/..",
    "..",
    ".",
    "",
    "a//b",
    "./a",
    "a/./b",
    "\\x",
    "..\\x",
    "C:/x",
    "c:x",
    "a\nb",
    "a\x00b",
    "a\u2028b",
    "a\x1b[2Jb",
    "\ud800",
]


@pytest.mark.parametrize("key", LEADING_OUT, ids=repr)
def test_keys_that_lead_out(key):
    with pytest.raises(DataError, match=r"here: the name .*; rename it") as caught:
        check_key(key, "here")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", ["a", "a/b", "a.b", "..a", "a..", "a b", "ü/日本", "-", "12:30:01", "a/b/c_s001"])
def test_keys_that_stay(key):
    assert check_key(key, "here") == key


def test_names_have_no_folders():
    assert check_name("train", "here") == "train"
    with pytest.raises(DataError, match="separator"):
        check_name("a/b", "here")


@pytest.mark.parametrize("key", ["/abs/x", "../../x", "a/../../x"])
def test_records_of_an_lmdb(tmp_path, key):
    data = write_png(tmp_path / "a.png", picture(0)).read_bytes()
    path = raw_store(tmp_path / "a.lmdb", {key: data}, f"{key}.png (40,56,3) 1\n")
    with pytest.raises(DataError, match=r"a.lmdb/meta_info.txt: line 1: the name .* leads out of the folder"):
        open_images(path)


@pytest.mark.parametrize("form", ["column", "list"])
def test_splits_of_faces(tmp_path, form):
    images = image_folder(tmp_path / "faces", 2)
    points = np.array([[15, 15], [35, 15], [25, 22], [17, 30], [33, 30]])
    values = ",".join(map(str, points.flatten()))
    columns = ",".join(f"{axis}{number}" for number in range(5) for axis in "xy")
    split = "../../x" if form == "column" else "train"
    (tmp_path / "points.csv").write_text(f"image,split,{columns}\nimg_0,{split},{values}\nimg_1,train,{values}\n")
    arguments = ["faces", "--src", images, "--landmarks", tmp_path / "points.csv", "--out", tmp_path / "a/b/out"]
    if form == "list":
        (tmp_path / "splits.txt").write_text("img_0 ../../x\nimg_1 0\n")
        arguments += ["--splits", tmp_path / "splits.txt"]
    with pytest.raises(DataError, match=r"(points.csv|splits.txt): split: the name '../../x' leads out"):
        main([*map(str, arguments), "--size", "16", "--scale", "2"])
    assert sorted(entry.name for entry in (tmp_path).iterdir() if entry.is_dir()) == ["faces"]


def test_keys_of_a_foreign_data_set():
    assert image_keys({"key": ["a/b", "c"]}) == ["a/b", "c"]
    with pytest.raises(DataError, match="leads out"):
        image_keys({"key": ["a", "../b"]})
    assert image_keys({"gt_path": ["../../x.png", "/abs/y"]}) == ["x", "y"]
