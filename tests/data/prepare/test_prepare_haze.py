from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2sm_plugin.data.haze import add_random_haze
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.prepare.prepare_data import main
from d2sm_plugin.errors import DataError, OptionError


def picture(seed: int, size=(24, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def numbered(root, scene, count, hazy_folder="hazy", clear_folder="GT", suffix=".png"):
    for number in range(1, count + 1):
        save(root / hazy_folder / f"{number:02d}_{scene}_hazy{suffix}", picture(number))
        save(root / clear_folder / f"{number:02d}_{scene}_GT{suffix}", picture(1000 + number))
    return root


def prepare(source, out, *arguments):
    return main(["haze", "--src", str(source), "--out", str(out), "--workers", "1", *map(str, arguments)])


def paired(out, split):
    from basicsr.data.paired_image_dataset import PairedImageDataset  # importable once our package has mended it

    return PairedImageDataset(
        {
            "dataroot_lq": str(out / f"{split}_lq.lmdb"),
            "dataroot_gt": str(out / f"{split}_gt.lmdb"),
            "io_backend": {"type": "lmdb"},
            "phase": "test",
            "scale": 1,
        }
    )


def pixels(tensor):
    return (tensor * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("scene", "total", "training", "folders"),
    [("indoor", 35, 30, ("hazy", "GT")), ("outdoor", 45, 40, ("images", "images"))],
)
def test_paper_splits(tmp_path, scene, total, training, folders):
    source = numbered(tmp_path / "src", scene, total, *folders)
    assert prepare(source, tmp_path / "out") == 0
    train, test = (open_images(tmp_path / "out" / f"{split}_lq.lmdb") for split in ("train", "test"))
    assert train.keys == [f"{number:02d}_{scene}" for number in range(1, training + 1)]
    assert test.keys == [f"{number:02d}_{scene}" for number in range(training + 1, total + 1)]
    dataset = paired(tmp_path / "out", "test")
    assert len(dataset) == 5
    item = dataset[0]
    assert np.array_equal(pixels(item["lq"]), picture(training + 1))
    assert np.array_equal(pixels(item["gt"]), picture(1000 + training + 1))


def test_own_split_of_an_incomplete_set(tmp_path):
    source = numbered(tmp_path / "src", "indoor", 6)
    with pytest.raises(DataError, match="I-HAZE has 35 pairs, 6 are here"):
        prepare(source, tmp_path / "out")
    prepare(source, tmp_path / "out", "--train-count", 4)
    assert len(paired(tmp_path / "out", "train")) == 4
    assert len(paired(tmp_path / "out", "test")) == 2
    with pytest.raises(OptionError, match="--train-count 6"):
        prepare(source, tmp_path / "other", "--train-count", 6)


def test_training_images_are_cut_alike(tmp_path):
    source = numbered(tmp_path / "src", "indoor", 3)
    prepare(source, tmp_path / "out", "--train-count", 2, "--crop-size", 16, "--step", 8)
    train = paired(tmp_path / "out", "train")
    assert len(train) == 2 * 2 * 3
    assert open_images(tmp_path / "out" / "test_lq.lmdb").keys == ["03_indoor"]
    first = train[1]
    assert first["lq_path"] == "01_indoor_s002"
    assert np.array_equal(pixels(first["lq"]), picture(1)[:16, 8:24])
    assert np.array_equal(pixels(first["gt"]), picture(1001)[:16, 8:24])


def test_jpegs_keep_their_bytes(tmp_path):
    source = numbered(tmp_path / "src", "outdoor", 2, suffix=".jpg")
    prepare(source, tmp_path / "out", "--train-count", 1)
    store = open_images(tmp_path / "out" / "train_lq.lmdb")
    assert store.read_bytes("01_outdoor") == (source / "hazy" / "01_outdoor_hazy.jpg").read_bytes()


def reside(root, clear_folder="gt", clear_size=(24, 32)):
    for name in ("1400", "1401"):
        save(root / clear_folder / f"{name}.png", picture(int(name), clear_size))
        for index in (1, 2, 10):
            save(root / "hazy" / f"{name}_{index}.png", picture(int(name) * 10 + index))
    return root


@pytest.mark.parametrize("clear_folder", ["gt", "clear"])
def test_hazy_images_that_share_a_clear_one(tmp_path, clear_folder):
    prepare(reside(tmp_path / "src", clear_folder), tmp_path / "out")
    dataset = paired(tmp_path / "out", "test")
    assert [item["lq_path"] for item in (dataset[i] for i in range(len(dataset)))] == [
        f"{name}_{index}" for name in ("1400", "1401") for index in (1, 10, 2)
    ]
    for index in range(len(dataset)):
        name = dataset[index]["lq_path"].split("_")[0]
        assert np.array_equal(pixels(dataset[index]["gt"]), picture(int(name)))


def test_frame_of_the_original_clear_images_is_cut_off(tmp_path):
    prepare(reside(tmp_path / "src", clear_size=(44, 52)), tmp_path / "out")
    assert np.array_equal(pixels(paired(tmp_path / "out", "test")[0]["gt"]), picture(1400, (44, 52))[10:-10, 10:-10])
    prepare(
        reside(tmp_path / "src", clear_size=(44, 52)),
        tmp_path / "cut",
        "--split",
        "train",
        "--crop-size",
        16,
        "--step",
        8,
    )
    item = paired(tmp_path / "cut", "train")[1]
    assert item["lq_path"] == "1400_10_s002"
    assert np.array_equal(pixels(item["gt"]), picture(1400, (44, 52))[10:26, 18:34])


def test_full_stops_do_not_reach_the_keys(tmp_path):
    """RESIDE's outdoor names carry airlight and density; BasicSR would cut such a key off at its first full stop."""
    save(tmp_path / "src" / "clear" / "0001.png", picture(1))
    for name in ("0001_0.8_0.04", "0001_0.8_0.16"):
        save(tmp_path / "src" / "hazy" / f"{name}.jpg", picture(2))
    prepare(tmp_path / "src", tmp_path / "out", "--split", "val")
    assert [item["gt_path"] for item in paired(tmp_path / "out", "val")] == ["0001_0-8_0-04", "0001_0-8_0-16"]


def test_transmission_maps_go_with_their_hazy_images(tmp_path):
    source = tmp_path / "src"
    maps = {}
    for name in ("1", "2"):
        save(source / "clear" / f"{name}.png", picture(int(name)))
        for index in (1, 2):
            save(source / "hazy" / f"{name}_{index}_0.9{index}.png", picture(10 * int(name) + index))
            maps[f"{name}_{index}"] = picture(100 + 10 * int(name) + index)[..., 0]
            path = source / "trans" / f"{name}_{index}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), maps[f"{name}_{index}"])
    prepare(source, tmp_path / "plain", "--split", "train")
    assert not (tmp_path / "plain" / "train_trans.lmdb").exists()
    prepare(source, tmp_path / "out", "--split", "train", "--transmission")
    out = tmp_path / "out"
    (out / "train_gt.lmdb").rename(out / "train_clear.lmdb")
    (out / "train_trans.lmdb").rename(out / "train_gt.lmdb")
    dataset = paired(out, "train")
    assert len(dataset) == 4
    for index in range(4):
        item = dataset[index]
        name = "_".join(item["gt_path"].split("_")[:2])
        assert np.array_equal(pixels(item["gt"]), np.repeat(maps[name][..., None], 3, axis=2))

    save(source / "trans" / "2_1.png", picture(0, (20, 32)))
    with pytest.raises(DataError, match=r"2_1\.png: its size differs from that of .*2_1_0\.91\.png"):
        prepare(source, tmp_path / "bad", "--split", "train", "--transmission")
    (source / "trans" / "2_1.png").unlink()
    with pytest.raises(DataError, match=r"2_1_0\.91\.png: its transmission map .*2_1\.png is missing"):
        prepare(source, tmp_path / "bad", "--split", "train", "--transmission")


def test_real_sots(shared, tmp_path):
    prepare(shared / "data" / "sots_indoor", tmp_path)
    assert len(paired(tmp_path, "train")) == 60
    test = paired(tmp_path, "test")
    assert len(test) == 16
    item = test[3]
    assert item["lq_path"] == "1431_8"
    gt = cv2.imread(str(shared / "data" / "sots_indoor" / "test" / "gt" / "1431.png"))[..., ::-1]
    assert np.array_equal(pixels(item["gt"]), gt)


def test_every_fault_is_named(tmp_path):
    source = reside(tmp_path / "src")
    hazy, clear = source / "hazy" / "1400_2.png", source / "gt" / "1401.png"

    save(hazy, picture(0, (20, 32)))
    with pytest.raises(DataError, match=r"1400_2.png: the image is 32x20 .* clear one .*1400.png 32x24"):
        prepare(source, tmp_path / "out")
    hazy.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1400_2.png: it does not decode as an image"):
        prepare(source, tmp_path / "out")
    save(hazy, picture(0))

    clear.rename(source / "gt" / "1499.png")
    with pytest.raises(DataError, match=r"1401_1.png: its clear image .*1401.\* is missing"):
        prepare(source, tmp_path / "out")
    (source / "gt" / "1499.png").rename(clear)
    save(source / "gt" / "1500.png", picture(0))
    with pytest.raises(DataError, match=r"1500.png: no hazy image .* belongs to it"):
        prepare(source, tmp_path / "out")
    assert not list((tmp_path).glob("out/*.lmdb"))


def test_faults_of_numbered_sets_are_named(tmp_path):
    source = numbered(tmp_path / "src", "indoor", 3)
    (source / "GT" / "02_indoor_GT.png").rename(source / "02_indoor_GT.txt")
    with pytest.raises(DataError, match=r"02_indoor_hazy.png: its counterpart \(same number, ..._GT\) is missing"):
        prepare(source, tmp_path / "out", "--train-count", 2)
    save(source / "more" / "02_indoor_GT.png", picture(0))
    save(source / "more" / "03_indoor_GT.png", picture(0))
    with pytest.raises(DataError, match="image 3 is there twice"):
        prepare(source, tmp_path / "out", "--train-count", 2)
    (source / "more" / "03_indoor_GT.png").rename(source / "more" / "03_outdoor_GT.png")
    with pytest.raises(DataError, match="I-HAZE and O-HAZE both"):
        prepare(source, tmp_path / "out", "--train-count", 2)


def test_unknown_layouts_are_refused(tmp_path):
    save(tmp_path / "src" / "a.png", picture(0))
    with pytest.raises(DataError, match="no known layout"):
        prepare(tmp_path / "src", tmp_path / "out")
    save(tmp_path / "src" / "hazy" / "a_1.png", picture(0))
    with pytest.raises(DataError, match="none with the clear images"):
        prepare(tmp_path / "src", tmp_path / "out")
    with pytest.raises(OptionError, match="only I-HAZE and O-HAZE"):
        prepare(tmp_path / "src", tmp_path / "out", "--train-count", 2)


def synthesise(out, *arguments):
    counts = ["--num-train", "2", "--num-test", "1", "--workers", "1"]
    return main(["synthetic-haze", "--out", str(out), *counts, *map(str, arguments)])


def records(out):
    names = [f"{split}_{kind}.lmdb" for split in ("train", "test") for kind in ("lq", "gt")]
    return {
        name: {key: store.read_rgb(key) for key in store.keys} for name in names for store in [open_images(out / name)]
    }


@pytest.mark.parametrize("source", ["scenes", "stereo"])
def test_synthetic_pairs(tmp_path, source):
    for folder in ("a", "b"):
        synthesise(tmp_path / folder, "--source", source, "--size", 48, 64)
    synthesise(tmp_path / "c", "--source", source, "--size", 48, 64, "--seed", 7)
    first, again, other = (records(tmp_path / folder) for folder in "abc")
    np.testing.assert_equal(first, again)
    assert list(first["train_lq.lmdb"]) == list(first["train_gt.lmdb"]) == ["haze_000000", "haze_000001"]
    assert list(first["test_lq.lmdb"]) == ["haze_000002"]
    assert not np.array_equal(first["train_gt.lmdb"]["haze_000000"], other["train_gt.lmdb"]["haze_000007"])
    hazy, clear = first["test_lq.lmdb"]["haze_000002"], first["test_gt.lmdb"]["haze_000002"]
    assert hazy.shape == clear.shape == (48, 64, 3)
    assert hazy.std() < clear.std()
    assert len(paired(tmp_path / "a", "test")) == 1


def test_synthetic_haze_is_the_formula(tmp_path):
    from d2sm_plugin.data.haze import HazeRange
    from d2sm_plugin.scenes.street_scenes import render_scene

    synthesise(tmp_path, "--size", 48, 64, "--beta", 0.02, 0.03, "--airlight", 0.8, 0.9, "--tint", 0.05)
    scene = render_scene(1, (48, 64))
    ranges = HazeRange((0.02, 0.03), (0.8, 0.9), 0.05)
    expected = add_random_haze(scene.image, scene.depth, ranges, np.random.default_rng(1)).image
    stored = records(tmp_path)
    assert np.array_equal(stored["train_gt.lmdb"]["haze_000001"], scene.image)
    assert np.abs(stored["train_lq.lmdb"]["haze_000001"] / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_window_larger_than_the_photograph_is_refused(tmp_path):
    with pytest.raises(OptionError, match="the stereo photograph is 500 by 741"):
        synthesise(tmp_path, "--source", "stereo", "--size", 600, 600)
