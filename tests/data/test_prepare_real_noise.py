"""SIDD and DND in the layouts they are downloaded in, made tiny."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from data_samples import picture, write_png
from scipy.io import savemat

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.prepare.prepare_data import main
from d2sm_plugin.errors import DataError, DependencyError

SCENES = ("0001_001_S6_00100_00060_3200_L", "0002_001_GP_00100_00200_5500_N")
BLOCKS = {"Noisy": "ValidationNoisyBlocksSrgb", "Gt": "ValidationGtBlocksSrgb"}


def prepare(name, source, out, *arguments):
    assert main([name, "--src", str(source), "--out", str(out), "--workers", "1", *map(str, arguments)]) == 0


def pictures(root):
    for scene in SCENES:
        for number in ("010", "011"):
            for kind, shift in (("NOISY", 0), ("GT", 100)):
                name = f"{scene[:4]}_{kind}_SRGB_{number}.PNG"
                write_png(root / "Data" / scene / name, picture(shift + int(scene[:4]) * 10 + int(number)))
    return root


def blocks(root, kind="Noisy", shape=(3, 2, 16, 16, 3), **settings):
    array = np.random.default_rng(len(kind)).integers(0, 256, shape).astype(np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / f"{BLOCKS[kind]}.mat", {BLOCKS[kind]: array}, **{"do_compression": True, **settings})
    return array


# -------------------------------------------------------------------------------------------------------------- SIDD


def test_pictures_of_sidd(tmp_path):
    prepare("sidd", pictures(tmp_path / "SIDD_Medium_Srgb"), tmp_path / "out")
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["train_gt.lmdb", "train_lq.lmdb"]
    lq, gt = (open_images(tmp_path / f"out/train_{part}.lmdb") for part in ("lq", "gt"))
    assert lq.keys == gt.keys == [f"{scene}_{number}" for scene in SCENES for number in ("010", "011")]
    assert np.array_equal(lq.read_rgb(lq.keys[1]), picture(21))
    assert np.array_equal(gt.read_rgb(lq.keys[1]), picture(121))


def test_pictures_of_sidd_are_cut_and_trained_on(tmp_path):
    from basicsr.data.paired_image_dataset import PairedImageDataset

    prepare("sidd", pictures(tmp_path / "sidd"), tmp_path / "out", "--crop-size", 32, "--step", 24)
    roots = {f"dataroot_{part}": str(tmp_path / f"out/train_{part}.lmdb") for part in ("lq", "gt")}
    dataset = PairedImageDataset(roots | {"io_backend": {"type": "lmdb"}, "phase": "val", "scale": 1})
    assert len(dataset) == 4 * 2 * 2  # 40x56 pixels: two rows and two columns of windows
    item = dataset[0]
    assert item["lq"].shape == item["gt"].shape == (3, 32, 32)
    assert np.array_equal((item["gt"] * 255).round().numpy().transpose(1, 2, 0), picture(120)[:32, :32])


def test_validation_blocks_of_sidd(tmp_path):
    arrays = {kind: blocks(tmp_path / "sidd", kind) for kind in BLOCKS}
    prepare("sidd", tmp_path / "sidd", tmp_path / "out")
    lq, gt = (open_images(tmp_path / f"out/val_{part}.lmdb") for part in ("lq", "gt"))
    assert lq.keys == gt.keys == [f"{image:04d}_{block:02d}" for image in (1, 2, 3) for block in (1, 2)]
    for store, kind in ((lq, "Noisy"), (gt, "Gt")):
        assert np.array_equal(store.read_rgb("0003_02"), arrays[kind][2, 1])


def test_mistakes_in_sidd(tmp_path):
    out, source = tmp_path / "out", tmp_path / "sidd"
    source.mkdir()
    with pytest.raises(DataError, match=r"sidd: expected SCENE_NOISY_SRGB_010\.PNG with SCENE_GT_SRGB_010\.PNG"):
        prepare("sidd", source, out)
    pictures(source)
    clean = source / "Data" / SCENES[1] / "0002_GT_SRGB_010.PNG"
    write_png(clean, picture(1, (40, 50)))
    with pytest.raises(DataError, match=r"0002_NOISY_SRGB_010\.PNG: the image is 56x40 .* is 50x40; they must be eq"):
        prepare("sidd", source, out)
    clean.unlink()
    with pytest.raises(DataError, match=r"0002_NOISY_SRGB_010\.PNG: its counterpart \(GT in place of NOISY\) is miss"):
        prepare("sidd", source, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"NoisyBlocksSrgb\.mat: its counterpart ValidationGtBlocksSrgb\.mat is missing below"),
        (lambda root: blocks(root, "Gt", (3, 1, 16, 16, 3)), r"\.mat: its blocks are \(3, 2, 16, 16, 3\), those"),
        (lambda root: blocks(root, "Gt", (3, 2, 16, 16)), r"GtBlocksSrgb\.mat: .* is uint8 \(3, 2, 16, 16\); expected"),
        (lambda root: savemat(root / "ValidationGtBlocksSrgb.mat", {"x": np.ones(3)}, do_compression=True),
         r"GtBlocksSrgb\.mat: cannot be read \(it holds no ValidationGtBlocksSrgb\); d"),
        (lambda root: (root / "ValidationGtBlocksSrgb.mat").write_bytes(b"damaged"), r"Gt.*\.mat: cannot be read"),
    ],
)  # fmt: skip
def test_mistakes_in_validation_blocks(make, message, tmp_path):
    blocks(tmp_path / "sidd")
    make(tmp_path / "sidd")
    with pytest.raises(DataError, match=message):
        prepare("sidd", tmp_path / "sidd", tmp_path / "out")


def test_every_byte_of_a_validation_file_counts(tmp_path):
    """Cut off or changed anywhere, it is one line, and SciPy never sees it."""
    blocks(tmp_path / "sidd"), blocks(tmp_path / "sidd", "Gt")
    file = tmp_path / "sidd" / "ValidationGtBlocksSrgb.mat"
    whole = file.read_bytes()
    for end in (0, 100, 140, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"GtBlocksSrgb\.mat: cannot be read"):
            prepare("sidd", tmp_path / "sidd", tmp_path / "out")
    for place in (126, 133, 200, len(whole) - 2):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"GtBlocksSrgb\.mat: cannot be read"):
            prepare("sidd", tmp_path / "sidd", tmp_path / "out")


# --------------------------------------------------------------------------------------------------------------- DND


def dnd(root, boxes=((1, 1, 16, 20), (5, 11, 20, 30)), size=(24, 32)):
    """Two images with some boxes each, as MATLAB 7.3 writes them: axes in reverse order, cells by reference."""
    (root / "images_srgb").mkdir(parents=True)
    images = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
    with h5py.File(root / "info.mat", "w") as info:
        cells = info.create_dataset("info/boundingboxes", (1, 2), dtype=h5py.ref_dtype)
        for number in range(2):
            cell = info.create_dataset(f"#refs#/{number}", data=np.array(boxes, np.float64).T)
            cells[0, number] = cell.ref
    for number, image in enumerate(images, start=1):
        with h5py.File(root / "images_srgb" / f"{number:04d}.mat", "w") as file:
            file["InoisySRGB"] = image.T
    return images


def test_dnd(tmp_path):
    images = dnd(tmp_path / "dnd")
    prepare("dnd", tmp_path / "dnd", tmp_path / "out")
    store = open_images(tmp_path / "out/test_lq.lmdb")
    assert store.keys == ["0001_01", "0001_02", "0002_01", "0002_02"]
    pixels = np.round(images * 255).astype(np.uint8)
    assert np.array_equal(store.read_rgb("0001_01"), pixels[0, :16, :20])
    assert np.array_equal(store.read_rgb("0002_02"), pixels[1, 4:20, 10:30])  # rows 5 to 20, columns 11 to 30 from 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "info.mat").unlink(), r"info\.mat: cannot be read"),
        (lambda root: (root / "info.mat").write_bytes(b"damaged"), r"info\.mat: cannot be read"),
        (lambda root: (root / "images_srgb/0002.mat").unlink(), r"0002\.mat: this image is missing; .*info\.mat"),
        (lambda root: (root / "images_srgb/0002.mat").write_bytes(b""), r"0002\.mat: cannot be read"),
        (lambda root: replace(root, np.zeros((3, 9), np.float32)), r"0001\.mat: .* is float32 \(3, 9\)\); expected"),
        (lambda root: replace(root, np.zeros((3, 32, 24), np.uint8)), r"0001\.mat: .* is uint8"),
        (lambda root: replace(root, np.full((3, 32, 24), np.nan)), r"0001\.mat: InoisySRGB holds inf or NaN"),
        (lambda root: replace(root, np.zeros((3, 32, 18))), r"0001\.mat: box 2 \(rows 4 to 20, columns 10"),
    ],
)  # fmt: skip
def test_mistakes_in_dnd(spoil, message, tmp_path):
    dnd(tmp_path / "dnd")
    spoil(tmp_path / "dnd")
    with pytest.raises(DataError, match=message) as error:
        prepare("dnd", tmp_path / "dnd", tmp_path / "out")
    assert "\n" not in str(error.value)


def replace(root, array):
    with h5py.File(root / "images_srgb/0001.mat", "w") as file:
        file["InoisySRGB"] = array


def test_without_h5py(tmp_path, monkeypatch):
    dnd(tmp_path / "dnd")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DependencyError, match=r'd2sm prepare dnd needs h5py, .*pip install "\.\[hdf5\]" in a clone'):
        prepare("dnd", tmp_path / "dnd", tmp_path / "out")
