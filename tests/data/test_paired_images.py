"""What is wrong with pairs for BasicSR's PairedImageDataset is told in one line that names file, key or option."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from data_samples import image_folder, picture, raw_store, write_png, write_store
from torch.utils.data import Dataset

from d2sm_plugin.data import image_store
from d2sm_plugin.data.dataset_checks import CheckedDataset
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.pipeline.loaders import build_dataset, build_evaluation_loaders

NAMES = [f"img_{number}" for number in range(5)]


@pytest.fixture
def block(tmp_path):
    """A block that works, of folders."""
    return {
        "type": "PairedImageDataset",
        "phase": "train",
        "scale": 1,
        "dataroot_lq": str(image_folder(tmp_path / "lq")),
        "dataroot_gt": str(image_folder(tmp_path / "gt")),
        "io_backend": {"type": "disk"},
        "gt_size": 32,
        "use_hflip": False,
        "use_rot": False,
    }


@pytest.fixture
def stores(tmp_path, block):
    """A block that works, of LMDBs."""
    roots = {}
    for name in ("lq", "gt"):
        store = write_store(tmp_path / f"{name}.lmdb", {key: picture(i) for i, key in enumerate(NAMES)})
        roots[f"dataroot_{name}"] = str(store)
    return block | roots | {"io_backend": {"type": "lmdb"}}


def test_sound_pairs_are_unchanged_and_in_order(block, stores):
    for options in (block, stores):
        dataset = build_dataset(options, "datasets.train")
        assert len(dataset) == 5
        items = [dataset[index] for index in range(5)]
        assert [os.path.basename(item["gt_path"]).removesuffix(".png") for item in items] == NAMES
        assert items[0]["gt"].shape == items[0]["lq"].shape == (3, 32, 32)
    whole = build_dataset(block | {"phase": "val", "gt_size": None}, "datasets.val")[2]
    assert np.array_equal((whole["gt"] * 255).round().byte().permute(1, 2, 0).numpy(), picture(2))


def damaged(block, tmp_path):
    (tmp_path / "lq/img_2.png").write_bytes(b"damaged")
    return r"lq/img_2.png: it does not decode"


def empty_file(block, tmp_path):
    (tmp_path / "gt/img_2.png").write_bytes(b"")
    return r"gt/img_2.png: it is empty"


def other_name(block, tmp_path):
    (tmp_path / "lq/img_2.png").rename(tmp_path / "lq/q2.png")
    return r"one name; .*lq lacks .* 1 \(first: 'img_2.png'\); .*gt lacks .* 'q2.png'"


def other_count(block, tmp_path):
    (tmp_path / "lq/img_2.png").unlink()
    return r"lq lacks the counterpart of 1 \(first: 'img_2.png'\)"


def other_ending(block, tmp_path):
    (tmp_path / "lq/img_2.png").rename(tmp_path / "lq/img_2.jpg")
    return r"lq lacks .*img_2.png"


def other_size(block, tmp_path):
    write_png(tmp_path / "lq/img_2.png", picture(2, (40, 55)))
    return r"lq/img_2.png: the image is 55x40 .*gt/img_2.png 56x40; with scale 1 \(datasets.train\) they do not fit"


def other_scale(block, tmp_path):
    block["scale"] = 2
    return r"with scale 2 \(datasets.train\) they do not fit"


def small(block, tmp_path):
    block["gt_size"] = 48
    return r"gt/img_0.png: the image is 56x40 .*smaller than the crop datasets.train.gt_size 48"


def no_crop(block, tmp_path):
    del block["gt_size"]
    return r"datasets.train.gt_size: this key is missing"


def no_backend(block, tmp_path):
    del block["io_backend"]
    return r"datasets.train.io_backend: this key is missing"


def other_backend(block, tmp_path):
    block["io_backend"] = {"type": "lmdb"}
    return r"io_backend: type 'lmdb', but dataroot_lq is no LMDB"


def no_folder(block, tmp_path):
    shutil.rmtree(tmp_path / "lq")
    return r"lq: no such folder"


def empty_folder(block, tmp_path):
    for file in (tmp_path / "gt").iterdir():
        file.unlink()
    return r"gt: it holds no image"


def stray_file(block, tmp_path):
    (tmp_path / "lq/Thumbs.db").write_text("")
    return r"lq/Thumbs.db: PairedImageDataset takes every file for an image"


def list_missing(block, tmp_path):
    block["meta_info_file"] = str(tmp_path / "list.txt")
    return r"datasets.train.meta_info_file: .*list.txt: cannot be read"


def list_of_others(block, tmp_path):
    (tmp_path / "list.txt").write_text("img_0.png (40,56,3)\nimg_9.png (40,56,3)\n")
    block["meta_info_file"] = str(tmp_path / "list.txt")
    return r"list.txt: line 2: .*lq/img_9.png is missing"


def list_with_gap(block, tmp_path):
    (tmp_path / "list.txt").write_text("img_0.png (40,56,3)\n\n")
    block["meta_info_file"] = str(tmp_path / "list.txt")
    return r"list.txt: line 2 is empty"


def wrong_template(block, tmp_path):
    block["filename_tmpl"] = "{x2}"
    return r"filename_tmpl: expected a text with .*'{x2}'"


@pytest.mark.parametrize(
    "spoil",
    [
        *(damaged, empty_file, other_name, other_count, other_ending, other_size, other_scale, small, no_crop),
        *(no_backend, other_backend, no_folder, empty_folder, stray_file),
        *(list_missing, list_of_others, list_with_gap, wrong_template),
    ],
)
def test_faults_of_folders(block, tmp_path, spoil):
    message = spoil(block, tmp_path)
    with pytest.raises((DataError, OptionError), match=message):
        build_dataset(block, "datasets.train")


def store_missing(block, tmp_path):
    shutil.rmtree(tmp_path / "gt.lmdb")
    return r"gt.lmdb: no such LMDB folder"


def store_without_list(block, tmp_path):
    (tmp_path / "lq.lmdb/meta_info.txt").unlink()
    return r"lq.lmdb: meta_info.txt is missing"


def store_of_other_keys(block, tmp_path):
    block["dataroot_lq"] = str(write_store(tmp_path / "other.lmdb", {"x": picture(0)}))
    return r"must have the same keys; 1 only in .*other.lmdb \(x\)"


def store_of_small_images(block, tmp_path):
    block["gt_size"] = 48
    return r"gt.lmdb: record 'img_0': the image is 56x40"


def store_of_other_sizes(block, tmp_path):
    store = write_store(tmp_path / "half.lmdb", {key: picture(0, (20, 28)) for key in NAMES})
    block["dataroot_lq"] = str(store)
    return r"half.lmdb: record 'img_0': the image is 28x20 .*with scale 1"


def store_of_dotted_keys(block, tmp_path):
    for name in ("lq", "gt"):
        block[f"dataroot_{name}"] = str(write_store(tmp_path / f"dotted_{name}.lmdb", {"a.b": picture(0)}))
    return r"BasicSR cuts the key 'a.b' off at its full stop"


def store_and_folder(block, tmp_path):
    block["dataroot_lq"] = str(tmp_path / "lq")
    return r"io_backend: type 'lmdb', but dataroot_lq is no LMDB"


@pytest.mark.parametrize(
    "spoil",
    [
        *(store_missing, store_without_list, store_of_other_keys, store_of_small_images, store_of_other_sizes),
        *(store_of_dotted_keys, store_and_folder),
    ],
)
def test_faults_of_lmdbs(stores, tmp_path, spoil):
    message = spoil(stores, tmp_path)
    with pytest.raises((DataError, OptionError), match=message):
        build_dataset(stores, "datasets.train")


def test_validation_may_be_a_little_larger_than_the_scale(block, tmp_path):
    for number in range(5):
        write_png(tmp_path / f"lq/img_{number}.png", picture(number, (13, 18)))
    options = block | {
        "phase": "val",
        "gt_size": None,
        "scale": 3,
    }  # 40x56 is 13x18 threefold, and one row and two columns
    item = build_dataset(options, "datasets.val")[0]
    assert item["gt"].shape == (3, 39, 54)
    with pytest.raises(DataError, match="with scale 2"):
        build_dataset(options | {"scale": 2}, "datasets.val")


def test_what_the_heads_do_not_show_is_told_when_it_is_read(block, tmp_path, monkeypatch):
    """Files cut off behind their heads, and those that were not looked at because there are too many."""
    file = tmp_path / "lq/img_3.png"
    file.write_bytes(file.read_bytes()[:-200])
    dataset = build_dataset(block, "datasets.train")
    with pytest.raises(DataError, match=r"datasets.train: .*lq/img_3.png: it does not decode"):
        dataset[3]
    file.write_bytes(b"damaged")
    monkeypatch.setattr(image_store, "MOST_LOOKED_AT", 1)
    with pytest.raises(DataError, match=r"datasets.train: .*lq/img_3.png: it does not decode"):
        build_dataset(block, "datasets.train")[3]


def test_damaged_record_is_named(tmp_path, block):
    whole = write_png(tmp_path / "a.png", picture(0)).read_bytes()
    for name, data in (("lq", whole[:-100]), ("gt", whole)):
        block[f"dataroot_{name}"] = str(raw_store(tmp_path / f"{name}.lmdb", {"k": data}, "k.png (40,56,3) 1\n"))
    dataset = build_dataset(block | {"io_backend": {"type": "lmdb"}}, "datasets.train")
    with pytest.raises(DataError, match=r"datasets.train: record 'k' \(lq\): it does not decode"):
        dataset[0]


def test_any_failure_of_a_foreign_data_set_is_one_line():
    class Foreign(Dataset):
        paths = ("/data/a", "/data/b")

        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise ZeroDivisionError("in\ntwo lines") if index else DataError("its own words")

    dataset = CheckedDataset(Foreign(), "datasets.val")
    with pytest.raises(
        DataError, match=r"^datasets.val: Foreign fails on /data/b \(ZeroDivisionError: in two lines\)$"
    ):
        dataset[1]
    with pytest.raises(DataError, match=r"^its own words$"):
        dataset[0]


def test_batches_of_validation_hold_images_of_one_size(tmp_path):
    for number, size in enumerate([(40, 56), (40, 56), (40, 56), (24, 32), (40, 56)]):
        write_png(tmp_path / f"img_{number}.png", picture(number, size))
    block = {"name": "v", "type": "NoisyImageDataset", "phase": "val", "dataroot_gt": str(tmp_path), "sigma": 25}
    loader = build_evaluation_loaders({"val": block | {"batch_size_per_gpu": 2}}, ("val",), 0, 1)["v"]
    batches = list(loader)
    assert [batch["key"] for batch in batches] == [["img_0", "img_1"], ["img_2"], ["img_3"], ["img_4"]]
    assert [tuple(batch["gt"].shape) for batch in batches] == [
        (2, 3, 40, 56),
        (1, 3, 40, 56),
        (1, 3, 24, 32),
        (1, 3, 40, 56),
    ]
