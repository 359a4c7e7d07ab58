from __future__ import annotations

import cv2
import numpy as np
import pytest
from data_samples import image_folder, image_store, label_folder, picture, raw_store, write_png

from d2sm_plugin.data.decoding import decode_label, decode_rgb, encode_png
from d2sm_plugin.data.image_store import FolderStore, LmdbStore, check_same_keys, open_images
from d2sm_plugin.errors import DataError


def test_folder_is_searched_recursively(tmp_path):
    for name in ("b/two.png", "a.png", "b/c/three.PNG", ".hidden.png", ".cache/x.png", "other.lmdb/y.png"):
        write_png(tmp_path / name, picture(len(name)))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "b/loop").symlink_to(tmp_path)
    store = open_images(tmp_path)
    assert isinstance(store, FolderStore)
    assert store.keys == ["a", "b/c/three", "b/two"]
    assert len(store) == 3 and "b/two" in store and "b" not in store
    assert store.path("b/two") == str(tmp_path / "b/two.png")
    assert store.size("a") == (40, 56)


def test_folder_and_lmdb_agree(tmp_path):
    folder, store = open_images(image_folder(tmp_path / "f")), open_images(image_store(tmp_path / "f.lmdb"))
    assert isinstance(store, LmdbStore)
    assert folder.keys == store.keys
    for index, key in enumerate(folder.keys):
        assert np.array_equal(folder.read_rgb(key), picture(index))
        assert np.array_equal(store.read_rgb(key), picture(index))
        assert store.size(key) == (40, 56)
        assert key in store.describe(key) and str(tmp_path) in store.describe(key)
    assert store.read_rgb("img_0").flags["C_CONTIGUOUS"]


def test_an_lmdb_is_known_by_its_content_too(tmp_path):
    image_store(tmp_path / "f.lmdb").rename(tmp_path / "plain")
    assert len(open_images(tmp_path / "plain")) == 5


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg"])
def test_formats(tmp_path, suffix):
    image = picture(3)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), image[..., ::-1])
    read = open_images(tmp_path).read_rgb("a")
    tolerance = 5 if suffix == ".jpg" else 0
    assert np.abs(read.astype(int) - image).mean() <= tolerance


def test_grey_deep_and_alpha_images_become_rgb(tmp_path):
    image = picture(1)
    cv2.imwrite(str(tmp_path / "grey.png"), image[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), image[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "alpha.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGRA))
    store = open_images(tmp_path)
    assert np.array_equal(store.read_rgb("grey"), np.repeat(image[..., :1], 3, axis=2))
    assert np.array_equal(store.read_rgb("deep"), image)
    assert np.array_equal(store.read_rgb("alpha"), image)


def test_labels_keep_their_values(tmp_path):
    label = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56).astype(np.uint8)
    write_png(tmp_path / "a.png", label)
    assert np.array_equal(open_images(tmp_path).read_label("a"), label)


def test_labels_of_another_kind(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture(0))
    with pytest.raises(DataError, match=r"a.png: a label map has one channel"):
        open_images(tmp_path).read_label("a")


def _encoded(suffix):
    return cv2.imencode(suffix, picture(0, (120, 160)))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("part", ["head", "half", "tail"])
def test_damaged_images(suffix, part):
    data = _encoded(suffix)
    cut = {"head": data[:3], "half": data[: len(data) // 2], "tail": data[:-30]}[part]
    with pytest.raises(DataError, match=r"some/file: it does not decode as an image \(\d+ bytes\)"):
        decode_rgb(cut, "some/file")
    if suffix != ".jpg":  # no label map at all
        label = cv2.imencode(suffix, picture(0, (120, 160))[..., 0])[1].tobytes()
        with pytest.raises(DataError, match=r"some/file: it does not decode as an image \(\d+ bytes\)"):
            decode_label(label[: {"head": 3, "half": len(label) // 2, "tail": -30}[part]], "some/file")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a.png: it is empty \(0 bytes\)"):
        open_images(tmp_path).read_rgb("a")


def test_record_that_does_not_decode(tmp_path):
    path = raw_store(tmp_path / "a.lmdb", {"x": b"no image"}, "x.png (4,4,3) 1\n")
    with pytest.raises(DataError, match=r"a.lmdb: record 'x': it does not decode"):
        open_images(path).read_rgb("x")


def test_record_that_only_meta_info_knows(tmp_path):
    path = raw_store(tmp_path / "a.lmdb", {"x": b"1"}, "y.png (4,4,3) 1\n")
    with pytest.raises(DataError, match=r"a.lmdb: it has no record 'y'"):
        open_images(path).read_rgb("y")


def test_unknown_key(tmp_path):
    for store in (open_images(image_folder(tmp_path / "f")), open_images(image_store(tmp_path / "f.lmdb"))):
        for ask in (store.read_rgb, store.path, store.size):
            with pytest.raises(DataError, match="there is no image 'img_7' in it; did you mean"):
                ask("img_7")


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nowhere.lmdb: no such LMDB folder"):
        open_images(tmp_path / "nowhere.lmdb")
    with pytest.raises(DataError, match="it holds no image"):
        open_images(tmp_path)
    write_png(tmp_path / "a.png", picture(0))
    write_png(tmp_path / "a.jpg", picture(0))
    with pytest.raises(DataError, match=r"a.jpg and a.png differ only in their extension"):
        open_images(tmp_path)


def test_key_sets_that_differ(tmp_path):
    images, labels = image_folder(tmp_path / "images", 8), label_folder(tmp_path / "labels", 4)
    write_png(labels / "extra.png", picture(0))
    check_same_keys(open_images(images), open_images(images))
    with pytest.raises(DataError, match=r"same keys; 4 only in .*images \(img_4, img_5, img_6, \.\.\.\); 1 only in"):
        check_same_keys(open_images(images), open_images(labels))


def test_png_levels():
    image = picture(0, (200, 200))
    assert len(encode_png(image, 9)) < len(encode_png(image, 0))
    assert np.array_equal(decode_rgb(encode_png(image, 9), ""), image)
