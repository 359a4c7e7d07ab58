from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from basicsr.data.transforms import augment
from basicsr.utils.registry import DATASET_REGISTRY
from data_samples import image_folder, image_store, label_folder, label_of, picture, raw_store, write_png, write_store
from torch.utils.data import DataLoader

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.draw_order import DrawOrder
from d2sm_plugin.data.draws import Draw, DrawSampler, SeededDraws
from d2sm_plugin.data.noise import noise_for_key, with_seeded_noise
from d2sm_plugin.data.noisy_image_dataset import NoisyImageDataset
from d2sm_plugin.errors import DataError, OptionError


def seed_all(seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture
def roots(tmp_path):
    images = image_store(tmp_path / "images.lmdb")
    labels = write_store(tmp_path / "labels.lmdb", {f"img_{n}": label_of(picture(n)) for n in range(5)})
    return {"dataroot_gt": str(images), "dataroot_label": str(labels)}


def train_options(roots, **changes):
    options = {"phase": "train", "gt_size": 16, "sigma_range": [0, 75], "use_hflip": True, "use_rot": True}
    return roots | options | changes


def val_options(roots, **changes):
    return roots | {"phase": "val", "sigma": 25} | changes


def test_is_registered():
    assert DATASET_REGISTRY.get("NoisyImageDataset") is NoisyImageDataset
    assert "gt_size" in NoisyImageDataset.options_model.model_fields


def test_training_item(roots):
    seed_all()
    item = NoisyImageDataset(train_options(roots))[2]
    assert item["gt"].shape == item["lq"].shape == (3, 16, 16) and item["lq"].dtype == torch.float32
    assert item["sigma"].shape == (1, 1, 1) and 0 <= item["sigma"].item() <= 75 / 255
    assert item["label"].shape == (16, 16) and item["label"].dtype == torch.int64
    assert item["key"] == item["gt_path"] == item["lq_path"] == "img_2"
    assert item["gt"].is_contiguous() and item["gt"].min() >= 0 and item["gt"].max() <= 1


def test_batches_collate(roots):
    batch = next(iter(DataLoader(NoisyImageDataset(train_options(roots)), batch_size=4)))
    assert batch["sigma"].shape == (4, 1, 1, 1)
    assert batch["lq"].shape == (4, 3, 16, 16) and batch["label"].shape == (4, 16, 16)
    assert batch["key"] == ["img_0", "img_1", "img_2", "img_3"]


def test_validation_item_is_the_image_plus_the_noise_of_its_key(roots):
    dataset = NoisyImageDataset(val_options(roots))
    for index in (3, 0, 3):
        item = dataset[index]
        clean = torch.from_numpy(picture(index).transpose(2, 0, 1).astype(np.float32) / 255)
        assert torch.equal(item["gt"], clean)
        assert torch.equal(item["lq"], clean + noise_for_key(f"img_{index}", 25, (3, 40, 56)))
        assert item["sigma"].item() == pytest.approx(25 / 255)
        assert np.array_equal(item["label"].numpy(), label_of(picture(index)))


def test_folder_and_lmdb_give_the_same(tmp_path, roots):
    image_folder(tmp_path / "images")
    folder = NoisyImageDataset(val_options({"dataroot_gt": str(tmp_path / "images")}))
    store = NoisyImageDataset(val_options(roots))
    assert folder.keys == store.keys
    assert torch.equal(folder[1]["lq"], store[1]["lq"])
    assert folder[1]["gt_path"] == str(tmp_path / "images/img_1.png")


def test_image_and_label_are_cut_and_flipped_alike(roots):
    """The label is a function of the colour, so it can be computed from the crop."""
    seed_all()
    dataset = NoisyImageDataset(train_options(roots))
    for index in list(range(5)) * 8:
        item = dataset[index]
        crop = (item["gt"] * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
        assert np.array_equal(label_of(crop), item["label"].numpy())


@pytest.mark.parametrize(("use_hflip", "use_rot"), [(True, True), (True, False), (False, True), (False, False)])
def test_flips_are_the_hosts(roots, use_hflip, use_rot):
    """Same draws, same picture as BasicSR's own augmentation."""
    options = {"phase": "train", "gt_size": None, "sigma": 0, "use_hflip": use_hflip, "use_rot": use_rot}
    dataset = NoisyImageDataset(roots | options)
    seen = set()
    for seed in range(40):
        seed_all(seed)
        expected = augment(picture(1).copy(), use_hflip, use_rot).transpose(2, 0, 1)
        seed_all(seed)
        gt = (dataset[1]["gt"] * 255).round().numpy().astype(np.uint8)
        assert np.array_equal(gt, expected)
        seen.add(gt.tobytes())
    assert len(seen) == (1 + use_hflip) * (1 + 3 * use_rot)


def test_crops_reach_every_corner(roots):
    seed_all()
    dataset = NoisyImageDataset(train_options(roots, gt_size=38, sigma_range=[0, 0], use_hflip=False, use_rot=False))
    full = picture(0).transpose(2, 0, 1)
    collected = set()
    for _ in range(400):
        crop = (dataset[0]["gt"] * 255).round().numpy().astype(np.uint8)
        collected |= {
            (top, left)
            for top in range(3)
            for left in range(19)
            if np.array_equal(crop, full[:, top : top + 38, left : left + 38])
        }
    assert collected == {(top, left) for top in range(3) for left in range(19)}


def test_training_noise_follows_the_level(tmp_path):
    images = write_store(tmp_path / "a.lmdb", {"a": np.full((128, 128, 3), 128, np.uint8)})
    dataset = NoisyImageDataset({"phase": "train", "dataroot_gt": str(images), "gt_size": 96, "sigma_range": [10, 60]})
    seed_all()
    levels = []
    for _ in range(30):
        item = dataset[0]
        measured = float((item["lq"] - item["gt"]).std())
        assert measured == pytest.approx(item["sigma"].item(), rel=0.03)
        levels.append(item["sigma"].item() * 255)
    assert min(levels) < 20 < 50 < max(levels) and min(levels) >= 10 and max(levels) <= 60


def test_one_fixed_level_in_training(roots):
    dataset = NoisyImageDataset(train_options(roots, sigma_range=None, sigma=50))
    assert dataset[0]["sigma"].item() == pytest.approx(50 / 255)
    assert not torch.equal(dataset[0]["lq"], dataset[0]["lq"])  # new noise every time


def test_noise_on_the_device_changes_nothing_but_the_noise(roots):
    """Crops, flips, levels and labels are those of the same draw with noise by the workers."""
    here, there = (SeededDraws(NoisyImageDataset(train_options(roots, noise_on=place)), 3) for place in PLACES)
    for position in range(6):
        item, other = (dataset[Draw(position, position % 5)] for dataset in (here, there))
        assert item.keys() - other.keys() == {"lq"} and other.keys() - item.keys() == {"noise_seed"}
        assert other["noise_seed"].dtype == torch.int64 and other["noise_seed"].shape == ()
        for name in ("gt", "sigma", "label"):
            assert torch.equal(item[name], other[name])
        lq = with_seeded_noise(other)["lq"]
        assert lq.shape == item["lq"].shape and not torch.equal(lq, item["lq"])
        assert float((lq - item["gt"]).std()) == pytest.approx(item["sigma"].item(), rel=0.15)


PLACES = ("workers", "device")


def test_clip(roots):
    free, clipped = NoisyImageDataset(val_options(roots)), NoisyImageDataset(val_options(roots, clip=True))
    assert free[0]["lq"].min() < 0 or free[0]["lq"].max() > 1
    assert torch.equal(clipped[0]["lq"], free[0]["lq"].clamp(0, 1))


def test_gray(roots):
    item = NoisyImageDataset(val_options(roots, color="gray"))[0]
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    colour = NoisyImageDataset(val_options(roots))[0]["gt"]
    assert item["gt"].shape == (1, 40, 56)
    assert (item["gt"] - (weights * colour).sum(0)).abs().max() <= 0.51 / 255
    seed_all()
    assert NoisyImageDataset(train_options(roots, color="gray"))[0]["lq"].shape == (1, 16, 16)


def test_subset(roots):
    assert NoisyImageDataset(val_options(roots, num_images=2)).keys == ["img_0", "img_1"]
    assert len(NoisyImageDataset(val_options(roots, num_images=50))) == 5


def _draws(roots, workers, count=6, **changes):
    dataset = SeededDraws(NoisyImageDataset(train_options(roots, **changes)), seed=3)
    loader = DataLoader(dataset, batch_sampler=DrawSampler(DrawOrder([5], 3), 2), num_workers=workers)
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def test_workers_give_the_same_samples(roots):
    for alone, shared in zip(_draws(roots, 0), _draws(roots, 2), strict=True):
        assert alone["key"] == shared["key"]
        for name in ("lq", "gt", "sigma", "label"):
            assert torch.equal(alone[name], shared[name])


def test_workers_give_the_same_noise_on_the_device(roots):
    for batches in zip(_draws(roots, 0, noise_on="device"), _draws(roots, 2, noise_on="device"), strict=True):
        alone, shared = map(with_seeded_noise, batches)
        assert torch.equal(alone["lq"], shared["lq"])


def test_two_phases_on_one_lmdb_with_workers(roots):
    """The parent has read from the LMDB before the workers are forked."""
    train, val = NoisyImageDataset(train_options(roots)), NoisyImageDataset(val_options(roots))
    alone = [val[index]["lq"] for index in range(5)]
    assert train[0]["key"] == "img_0"
    for index, batch in enumerate(DataLoader(val, num_workers=2)):
        assert torch.equal(batch["lq"][0], alone[index])
    assert len(list(DataLoader(train, num_workers=2))) == 5


def test_pickles(roots):
    dataset = NoisyImageDataset(val_options(roots))
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["lq"], dataset[1]["lq"])


def test_keys_of_the_pipeline_are_accepted(roots):
    pipeline = {
        "name": "x",
        "type": "NoisyImageDataset",
        "scale": 1,
        "io_backend": {"type": "lmdb"},
        "batch_size_per_gpu": 4,
        "num_worker_per_gpu": 2,
        "use_shuffle": True,
        "dataset_enlarge_ratio": 10,
        "prefetch_mode": None,
        "num_prefetch_queue": 1,
        "pin_memory": True,
        "persistent_workers": True,
    }
    assert len(NoisyImageDataset(train_options(roots) | pipeline)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gt_sise": 3}, r"datasets.train.gt_sise: unknown key; did you mean 'gt_size'\? known: .*sigma_range"),
        ({"gt_size": "16"}, r"datasets.train.gt_size: .*an integer, got '16'"),
        ({"gt_size": 0}, r"datasets.train.gt_size: .*a number above 0, got 0"),
        ({"use_rot": 1}, r"datasets.train.use_rot: .*true or false, got 1"),
        ({"dataroot_gt": None}, r"datasets.train.dataroot_gt: .*a text, got None"),
        ({"sigma_range": [75, 0]}, r"datasets.train.sigma_range: expected \[lowest, highest\], got \[75"),
        ({"sigma_range": [0]}, r"datasets.train.sigma_range: .*at least 2"),
        ({"sigma_range": [-1, 5]}, r"datasets.train.sigma_range.0: .*a number of at least 0"),
        ({"sigma_range": None}, r"datasets.train: training needs either sigma_range"),
        ({"sigma": 25}, r"datasets.train: training needs either sigma_range"),
        ({"color": "y"}, r"datasets.train.color: .*'rgb' or 'gray', got 'y'"),
        ({"io_backend": {"type": "zip"}}, r"datasets.train.io_backend.type: .*'lmdb' or 'disk', got 'zip'"),
        ({"io_backend": {"type": "disk"}}, r"^io_backend: type 'disk', but dataroot_gt is an LMDB"),
        ({"dataroot_label": None, "num_classes": 4}, r"datasets.train: num_classes checks labels"),
        ({"phase": "training"}, r"datasets.training.phase: .*'train', 'val' or 'test'"),
        ({"phase": "val", "sigma": 25}, r"datasets.val: sigma_range, gt_size, use_hflip, use_rot: for training only"),
        ({"phase": "test"}, r"datasets.test: a 'test' dataset needs sigma"),
        ({"phase": "val", "sigma": 25, "noise_on": "device"}, r"datasets.val.noise_on: for training only; in a 'val'"),
        ({"noise_on": "gpu"}, r"datasets.train.noise_on: .*'workers' or 'device', got 'gpu'"),
        ({"noise_on": "device", "clip": True}, r"datasets.train.noise_on: on the device, .*; remove it or clip$"),
        (
            {"noise_on": "device", "sigma_range": None, "degradations": [{"type": "Blur"}]},
            r"datasets.train.noise_on: on the device, .*; remove it or degradations$",
        ),
    ],
)
def test_option_errors(roots, changes, message):
    with pytest.raises(OptionError, match=message):
        NoisyImageDataset(train_options(roots, **changes))


def test_a_missing_key():
    with pytest.raises(OptionError, match=r"datasets.val.dataroot_gt: this key is missing"):
        NoisyImageDataset({"phase": "val", "sigma": 25})


def test_backend_lmdb_on_a_folder(tmp_path):
    image_folder(tmp_path / "images")
    with pytest.raises(OptionError, match=r"type 'lmdb', but dataroot_gt is a folder of images.*images; change"):
        NoisyImageDataset(val_options({"dataroot_gt": str(tmp_path / "images"), "io_backend": {"type": "lmdb"}}))


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
def test_image_smaller_than_the_crop(tmp_path, kind):
    root = image_folder(tmp_path / "images") if kind == "folder" else image_store(tmp_path / "images.lmdb")
    options = train_options({"dataroot_gt": str(root)}, gt_size=48)
    with pytest.raises(DataError, match=r"img_0.*the image is 56x40 \(width x height\), smaller than the crop .* 48;"):
        dataset = NoisyImageDataset(options)  # an LMDB says so before training starts, a folder at the first read
        assert kind == "folder"
        dataset[0]


def test_key_sets_that_differ(tmp_path, roots):
    labels = label_folder(tmp_path / "labels", count=3)
    with pytest.raises(DataError, match=r"same keys; 2 only in .*images.lmdb \(img_3, img_4\)"):
        NoisyImageDataset(val_options(roots, dataroot_label=str(labels)))


def test_label_value_outside_the_classes(tmp_path, roots):
    labels = label_folder(tmp_path / "labels", classes=7)
    dataset = NoisyImageDataset(val_options(roots, dataroot_label=str(labels), num_classes=4))
    with pytest.raises(DataError, match=r"labels/img_0.png: label value [456] is outside the 4 classes \(0 to 3"):
        dataset[0]


def test_ignored_pixels_are_no_class(tmp_path, roots):
    labels = label_folder(tmp_path / "labels")
    for number in range(5):
        label = label_of(picture(number))
        label[:5] = 255
        write_png(labels / f"img_{number}.png", label)
    dataset = NoisyImageDataset(val_options(roots, dataroot_label=str(labels), num_classes=4))
    assert (dataset[0]["label"][:5] == 255).all()


def test_label_of_another_size(tmp_path, roots):
    labels = label_folder(tmp_path / "labels", size=(40, 50))
    with pytest.raises(DataError, match=r"labels/img_0.png: the label map is 50x40 .* its image 56x40"):
        NoisyImageDataset(val_options(roots, dataroot_label=str(labels)))


def test_files_are_looked_at_before_anything_starts(tmp_path):
    """Damaged and small images of a folder, and labels, by their heads."""
    images, labels = image_folder(tmp_path / "images"), label_folder(tmp_path / "labels")
    (images / "img_3.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"images/img_3.png: it does not decode"):
        NoisyImageDataset(val_options({"dataroot_gt": str(images)}))
    write_png(images / "img_3.png", picture(3, (40, 20)))
    options = {"dataroot_gt": str(images), "phase": "train", "sigma": 25, "gt_size": 32}
    with pytest.raises(DataError, match=r"images/img_3.png: the image is 20x40 .*smaller than the crop gt_size 32"):
        NoisyImageDataset(options)
    write_png(images / "img_3.png", picture(3))
    (labels / "img_4.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"labels/img_4.png: it does not decode"):
        NoisyImageDataset(val_options({"dataroot_gt": str(images)}, dataroot_label=str(labels)))


def test_record_that_does_not_decode(tmp_path):
    path = raw_store(tmp_path / "a.lmdb", {"x": b"no image"}, "x.png (40,56,3) 1\n")
    with pytest.raises(DataError, match=r"a.lmdb: record 'x': it does not decode"):
        NoisyImageDataset(val_options({"dataroot_gt": str(path)}))[0]


# -------------------------------------------------------------------------------------------------- other degradations

CAMERA = [{"type": "Blur", "sigma": [0.5, 2]}, {"type": "CameraNoise"}, {"type": "JPEG", "quality": [60, 95]}]


def test_gaussian_noise_among_degradations_is_the_noise_of_sigma(roots):
    """Bit for bit, in validation; in training it is as large."""
    plain = NoisyImageDataset(val_options(roots))
    block = {"type": "GaussianNoise", "sigma": 25}
    listed = NoisyImageDataset(val_options(roots, sigma=None, degradations=[block]))
    for index in (0, 3):
        item, other = listed[index], plain[index]
        assert torch.equal(item["lq"], other["lq"]) and torch.equal(item["gt"], other["gt"])
        assert item["sigma"].shape == (1, 1, 1) and item["sigma"].item() == pytest.approx(25 / 255)
        assert torch.allclose(item["sigma_map"], torch.tensor(25 / 255)) and item["sigma_map"].shape == (3, 40, 56)


def test_degradations_of_a_validation_image_depend_on_its_key_alone(roots):
    options = val_options(roots, sigma=None, degradations=CAMERA)
    seed_all(1)
    items = [NoisyImageDataset(options)[index] for index in (2, 0)]
    seed_all(2)
    again = NoisyImageDataset(options)
    assert torch.equal(again[0]["lq"], items[1]["lq"]) and torch.equal(again[2]["sigma_map"], items[0]["sigma_map"])
    levels = [again[index]["sigma"].item() for index in range(5)]
    assert len(set(levels)) == 5 and min(levels) > 0
    rms = again[0]["sigma_map"].double().square().mean().sqrt().item()
    assert levels[0] == pytest.approx(rms)


def test_degradations_in_training_depend_on_the_draw_alone(roots):
    """So that workers, ranks and a continued run see the same."""
    dataset = NoisyImageDataset(train_options(roots, sigma_range=None, degradations=CAMERA, gt_size=24))
    draws = SeededDraws(dataset, seed=3)
    order = DrawOrder([len(dataset)], seed=3)
    batches = {}
    for workers in (0, 2):
        loader = DataLoader(draws, batch_sampler=DrawSampler(order, 2), num_workers=workers)
        batches[workers] = [batch["lq"] for batch, _ in zip(loader, range(3), strict=False)]
    resumed = next(iter(DataLoader(draws, batch_sampler=DrawSampler(order, 2, start=4))))["lq"]
    assert all(torch.equal(*pair) for pair in zip(*batches.values(), strict=True))
    assert torch.equal(resumed, batches[0][2])
    assert not torch.equal(batches[0][0], batches[0][1])


@pytest.mark.parametrize(("scale", "size"), [(1, (40, 56)), (4, (10, 14)), (3, (13, 18))])
def test_images_of_another_size_are_fitted_to_the_networks_input(roots, scale, size):
    chain = [{"type": "Downscale", "factor": [0.2, 0.9]}, {"type": "PoissonGaussianNoise"}]
    options = {"dataroot_gt": roots["dataroot_gt"], "phase": "val", "degradations": chain, "scale": scale}
    item = NoisyImageDataset(options)[1]
    assert item["gt"].shape == (3, size[0] * scale, size[1] * scale)
    assert item["lq"].shape == item["sigma_map"].shape == (3, *size)
    assert item["lq"].is_contiguous()


def test_a_dataset_with_degradations_can_be_sent_to_a_worker(roots):
    steps = [{"type": "SecondOrder"}, {"type": "OneOf", "steps": [{"type": "SincFilter"}]}]
    dataset = NoisyImageDataset(val_options(roots, sigma=None, degradations=steps))
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["lq"], dataset[1]["lq"])


def test_labels_are_cut_as_the_image(roots):
    item = NoisyImageDataset(val_options(roots, sigma=None, degradations=[{"type": "Blur"}], scale=3))[0]
    assert item["label"].shape == item["gt"].shape[1:] == (39, 54)
    assert not item["sigma"].any() and not item["sigma_map"].any()


def test_degradations_of_grey_images_and_clipped_ones(roots):
    options = val_options(roots, sigma=None, degradations=[{"type": "GaussianNoise", "sigma": 90}], clip=True)
    item = NoisyImageDataset(options | {"color": "gray"})[0]
    assert item["lq"].shape == (1, 40, 56) and item["lq"].min() >= 0 and item["lq"].max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"degradations": CAMERA}, r"sigma: with degradations"),
        ({"sigma": None}, r"needs sigma, one fixed noise level such as 25, or degradations"),
        ({"sigma": None, "degradations": []}, r"degradations: expected at least 1 values"),
        ({"sigma": None, "degradations": ["JPEG"]}, r"degradations\.0: expected a block of keys, got 'JPEG'"),
        ({"sigma": None, "degradations": [{"type": "JPG"}]}, r"degradations\.0\.type: no deg.*mean 'JPEG'"),
    ],
)  # fmt: skip
def test_mistakes_in_degradations(roots, changes, message):
    with pytest.raises(OptionError, match=message):
        NoisyImageDataset(val_options(roots, **changes))


def test_a_degradation_that_fails_names_the_image(roots):
    dataset = NoisyImageDataset(val_options(roots, sigma=None, degradations=[{"type": "Blur"}]))
    dataset.steps[0].degradation = lambda image, generator: image[..., 0]
    with pytest.raises(DataError, match=r"images.lmdb: record 'img_0': degradations\.0: Blur returned \(40, 56\), exp"):
        dataset[0]


def inverted(image, generator):
    """In place, as a degradation of somebody's own may do it."""
    image *= -1
    image += 1
    return image


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_a_degradation_may_change_its_image_in_place(roots, color):
    dataset = NoisyImageDataset(val_options(roots, sigma=None, degradations=[{"type": "Blur"}], color=color))
    dataset.steps[0].degradation = inverted
    item, clean = dataset[0], NoisyImageDataset(val_options(roots, color=color))[0]["gt"]
    assert torch.equal(item["gt"], clean) and torch.allclose(item["lq"], 1 - clean)


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_levels_stay_levels_when_a_map_grows(tmp_path, color):
    """Where noise begins at an edge, cubic interpolation overshoots."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    write_png(tmp_path / "edge.png", image)
    chain = [{"type": "PoissonGaussianNoise", "shot": 30, "read": 0}, {"type": "Downscale", "factor": 0.25}]
    item = NoisyImageDataset({"dataroot_gt": str(tmp_path), "phase": "val", "degradations": chain, "color": color})[0]
    assert item["sigma_map"].min() == 0 and item["sigma"].isfinite()


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_images_smaller_than_the_scale_are_named(roots, tmp_path, color):
    options = val_options(roots, sigma=None, degradations=CAMERA, color=color)
    with pytest.raises(DataError, match=r"img_0': the image is 56x40 \(width x height\), smaller than scale 41"):
        NoisyImageDataset(options | {"scale": 41})
    with pytest.raises(OptionError, match=r"^scale: expected 1 to gt_size \(8\), got 9"):
        NoisyImageDataset(train_options(roots, sigma_range=None, degradations=CAMERA, gt_size=8) | {"scale": 9})
