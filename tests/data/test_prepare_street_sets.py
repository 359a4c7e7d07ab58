from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_samples import contents, image_folder, label_folder, label_of, picture, write_png
from PIL import Image

from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.noisy_image_dataset import NoisyImageDataset
from d2sm_plugin.data.prepare.cityscapes import TRAIN_IDS
from d2sm_plugin.data.prepare.prepare_data import main
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.scenes.street_scenes import TRAIN_SEEDS, render_scene

PARTS = {"gt": "images", "label": "labels"}


def prepare(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def cityscapes_folder(root: Path, splits=("train", "val"), size=(40, 56)) -> Path:
    for split in splits:
        for number, city in enumerate(("aachen", "aachen", "ulm")):
            name = f"{city}_{number:06d}_000019"
            image = picture(number, size)
            write_png(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", image)
            write_png(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", label_of(image, 34))
            write_png(root / f"gtFine/{split}/{city}/{name}_gtFine_color.png", image)
    return root


def test_cityscapes(tmp_path, capsys):
    source = cityscapes_folder(tmp_path / "cs")
    prepare("cityscapes", "--src", source, "--out", tmp_path / "out", "--crop-size", 32)
    names = ["train_images.lmdb", "train_labels.lmdb", "val_images.lmdb", "val_labels.lmdb"]
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == names
    assert "leftImg8bit/test: not there, so the split test is left out" in capsys.readouterr().out
    images, labels = (open_images(tmp_path / f"out/val_{content}.lmdb") for content in ("images", "labels"))
    assert images.keys == labels.keys == ["aachen_000000_000019", "aachen_000001_000019", "ulm_000002_000019"]
    for number, key in enumerate(images.keys):
        expected = np.full((40, 56), 255)
        for label_id, train_id in TRAIN_IDS.items():
            expected[label_of(picture(number), 34) == label_id] = train_id
        assert np.array_equal(images.read_rgb(key), picture(number))
        assert np.array_equal(labels.read_label(key), expected)
    roots = {
        f"dataroot_{content}": str(tmp_path / f"out/train_{name}.lmdb")
        for content, name in (("gt", "images"), ("label", "labels"))
    }
    dataset = NoisyImageDataset(roots | {"phase": "train", "gt_size": 32, "sigma": 25, "num_classes": 19})
    assert len(dataset) == 12 and dataset[7]["label"].shape == (32, 32)


def test_cityscapes_train_ids():
    """The 19 classes, as the benchmark counts them."""
    assert sorted(TRAIN_IDS.values()) == list(range(19))
    assert (
        TRAIN_IDS[7] == 0 and TRAIN_IDS[11] == 2 and TRAIN_IDS[24] == 11 and TRAIN_IDS[26] == 13 and TRAIN_IDS[33] == 18
    )
    assert not {0, 9, 10, 14, 15, 16, 18, 29, 30} & set(TRAIN_IDS)


def test_cityscapes_errors(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"expected leftImg8bit/\{train,val,test\} in it"):
        prepare("cityscapes", "--src", tmp_path, "--out", out)
    source = cityscapes_folder(tmp_path / "cs", ["val"])
    ulm = source / "gtFine/val/ulm/ulm_000002_000019_gtFine_labelIds.png"
    good = ulm.read_bytes()
    ulm.unlink()
    with pytest.raises(
        DataError, match=r"gtFine/val/ulm/ulm_000002_000019_gtFine_labelIds.png: this label map is miss"
    ):
        prepare("cityscapes", "--src", source, "--out", out)
    write_png(ulm, np.zeros((40, 55), np.uint8))
    with pytest.raises(DataError, match=r"ulm_000002_000019_gtFine_labelIds.png: the label map is 55x40 .* 56x40"):
        prepare("cityscapes", "--src", source, "--out", out)
    write_png(ulm, np.full((40, 56), 77, np.uint8))
    with pytest.raises(DataError, match=r"labelIds.png: label value 77 is outside the classes; values may be 0, 1,"):
        prepare("cityscapes", "--src", source, "--out", out)
    ulm.write_bytes(good)
    next((source / "leftImg8bit/val/aachen").iterdir()).unlink()
    with pytest.raises(DataError, match=r"aachen_.*_labelIds.png: the image of this label map is missing"):
        prepare("cityscapes", "--src", source, "--out", tmp_path / "out2")
    assert not (out / "val_labels.lmdb").exists()


def test_cityscapes_split_without_labels(tmp_path, capsys):
    source = cityscapes_folder(tmp_path / "cs", ["val", "test"])
    os.rename(source / "gtFine/test", source / "elsewhere")
    prepare("cityscapes", "--src", source, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert "the split test gets images without labels" in capsys.readouterr().out


def test_cityscapes_sample(tmp_path, shared):
    prepare("cityscapes", "--src", shared / "data/cityscapes_sample", "--out", tmp_path)
    source = shared / "data/cityscapes_sample"
    images, labels = open_images(tmp_path / "val_images.lmdb"), open_images(tmp_path / "val_labels.lmdb")
    assert images.keys == labels.keys == ["frankfurt_000000_000294", "frankfurt_000000_000576"]
    key = images.keys[0]
    file = source / f"leftImg8bit/val/frankfurt/{key}_leftImg8bit.png"
    assert images.read_bytes(key) == file.read_bytes()
    ids = cv2.imread(str(source / f"gtFine/val/frankfurt/{key}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
    label = labels.read_label(key)
    assert label.shape == (1024, 2048)
    for label_id in np.unique(ids):
        assert set(np.unique(label[ids == label_id])) == {TRAIN_IDS.get(int(label_id), 255)}


def _camvid(root: Path, layout: str) -> Path:
    folders = ("{0}/images", "{0}/labels") if layout == "images" else ("{0}", "{0}annot")
    for split in ("train", "val"):
        image_folder(root / folders[0].format(split), 3)
        label_folder(root / folders[1].format(split), 3, classes=12)
    return root


@pytest.mark.parametrize("layout", ["images", "annot"])
def test_camvid(tmp_path, layout):
    prepare("camvid", "--src", _camvid(tmp_path / "cv", layout), "--out", tmp_path / "out")
    labels = open_images(tmp_path / "out/val_labels.lmdb")
    assert labels.keys == open_images(tmp_path / "out/val_images.lmdb").keys == ["img_0", "img_1", "img_2"]
    expected = label_of(picture(2), 12)
    expected[expected == 11] = 255
    assert np.array_equal(labels.read_label("img_2"), expected)


@pytest.mark.parametrize("layout", ["images", "annot"])
def test_camvid_errors(tmp_path, layout):
    source = _camvid(tmp_path / "cv", layout)
    folder = source / ("val/labels" if layout == "images" else "valannot")
    write_png(folder / "img_1.png", np.full((40, 56), 12, np.uint8))
    with pytest.raises(DataError, match=r"img_1.png: label value 12 is outside the classes"):
        prepare("camvid", "--src", source, "--out", tmp_path / "out")
    (folder / "img_1.png").unlink()
    with pytest.raises(DataError, match=r"img_1.png: this label map is missing; the image .*img_1.png needs it"):
        prepare("camvid", "--src", source, "--out", tmp_path / "out")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{folder.name}: this folder of label maps is missing"):
        prepare("camvid", "--src", source, "--out", tmp_path / "out")
    with pytest.raises(DataError, match="expected SPLIT/images with SPLIT/labels, or"):
        prepare("camvid", "--src", tmp_path / "out", "--out", tmp_path / "out2")


def test_demo(tmp_path):
    arguments = ["demo", "--out", tmp_path, "--num-train", 2, "--num-val", 1, "--size", 48, 96]
    prepare(*arguments)
    images, labels = open_images(tmp_path / "train_images.lmdb"), open_images(tmp_path / "train_labels.lmdb")
    assert images.keys == labels.keys and len(images) == 2
    scene = render_scene(TRAIN_SEEDS[1], (48, 96))
    assert np.array_equal(images.read_rgb(images.keys[1]), scene.image)
    assert np.array_equal(labels.read_label(images.keys[1]), scene.label)
    assert not set(open_images(tmp_path / "val_images.lmdb").keys) & set(images.keys)
    prepare(*arguments)  # all there
    with pytest.raises(OptionError, match="--seed 99999999: the split train has the scenes 0 to"):
        prepare(*arguments, "--seed", 99999999)


def test_demo_goes_on_where_one_of_its_two_lmdbs_is_whole(tmp_path):
    arguments = ["demo", "--num-train", 2, "--num-val", 1, "--size", 48, 96, "--workers", 1]
    prepare(*arguments, "--out", tmp_path / "a")
    prepare(*arguments, "--out", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/train_labels.lmdb")
    prepare(*arguments, "--out", tmp_path / "b")
    for name in ("train_images.lmdb", "train_labels.lmdb"):
        assert contents(tmp_path / "a" / name) == contents(tmp_path / "b" / name)


@pytest.mark.parametrize("label", ["as shown", "as stored, turned like its image"])
def test_turned_photographs_and_their_labels(tmp_path, label):
    """An image that asks to be turned, with a label of its shown size, or one that is turned alike."""
    source = tmp_path / "camvid"
    for folder in ("images", "labels"):
        (source / "train" / folder).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0, (24, 40))).save(source / "train/images/a.jpg", exif=exif, quality=95)
    stored = label_of(picture(0, (24, 40)), 11)
    shown = np.rot90(stored, -1)
    if label == "as shown":
        write_png(source / "train/labels/a.png", np.ascontiguousarray(shown))
    else:
        Image.fromarray(stored).save(source / "train/labels/a.png", exif=exif)
    prepare("camvid", "--src", source, "--out", tmp_path / "out")
    roots = {f"dataroot_{content}": str(tmp_path / f"out/train_{name}.lmdb") for content, name in PARTS.items()}
    item = NoisyImageDataset(roots | {"phase": "val", "sigma": 25, "num_classes": 11})[0]
    assert item["gt"].shape == (3, 40, 24)
    assert np.array_equal(item["label"], shown)


def test_turned_photograph_with_a_label_of_the_stored_size(tmp_path):
    source = tmp_path / "camvid"
    for folder in ("images", "labels"):
        (source / "train" / folder).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(picture(0, (24, 40))).save(source / "train/images/a.jpg", exif=exif)
    write_png(source / "train/labels/a.png", label_of(picture(0, (24, 40)), 11))
    with pytest.raises(DataError, match=r"a.png: the label map is 40x24 .*a.jpg 24x40; they must be equal"):
        prepare("camvid", "--src", source, "--out", tmp_path / "out")
