from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import yaml
from seg_material import write_pictures
from seg_ranks import score_on_rank

from d2sm_plugin.errors import CheckpointError, DataError, OptionError
from d2sm_plugin.seg import ConfusionMatrix, build_segmentor
from d2sm_plugin.seg.scorer import SegmentationScorer

pytest.importorskip("mmseg")


def block(tiny, pictures, **changes):
    return {"config": tiny[0], "checkpoint": tiny[1], "labels": str(pictures["labels"]), **changes}


def restored_images(pictures):
    paths = sorted(pictures["restored"].glob("*.png"))
    images = [torch.from_numpy(cv2.imread(str(p))[..., ::-1].copy()).permute(2, 0, 1) / 255 for p in paths]
    return [p.stem for p in paths], images


def label_of(pictures, key):
    return torch.from_numpy(cv2.imread(str(pictures["labels"] / f"{key}.png"), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_scores_are_those_of_one_matrix_over_the_set(tiny, pictures, batch_size):
    keys, images = restored_images(pictures)
    hook = SegmentationScorer(block(tiny, pictures, batch_size=batch_size))
    for _ in range(2):  # a second validation starts from nothing
        hook.start()
        hook.add(keys[:2], torch.stack(images[:2]))
        hook.add(keys[2:], torch.stack(images[2:]))
        actual = hook.finish()
    segmentor, matrix = build_segmentor(*tiny), ConfusionMatrix(5)
    for key, image in zip(keys, images, strict=True):
        matrix.update(segmentor.predict(image[None])[0], label_of(pictures, key))
    scores = matrix.scores(segmentor.classes)
    expected = {"mIoU": scores.miou, "aAcc": scores.aacc, "mAcc": scores.macc}
    expected |= {f"IoU/{name}": value for name, value in scores.iou.items()}
    assert actual == pytest.approx(expected, nan_ok=True)
    assert 0 < actual["mIoU"] < 100


def test_images_of_several_sizes(tiny, tmp_path):
    parts = write_pictures(tmp_path / "a", 2, (40, 56))
    other = write_pictures(tmp_path / "b", 1, (32, 64), seed=1)
    for name in parts:
        (other[name] / "im0.png").rename(parts[name] / "zz.png")
    keys, images = restored_images(parts)
    hook = SegmentationScorer(block(tiny, parts, batch_size=8))
    for key, image in zip(keys, images, strict=True):
        hook.add([key], image[None])
    hook.finish()
    assert int(hook.scored.matrix.counts.sum()) == 2 * 38 * 56 + 30 * 64


def test_overlay_is_at_hand_after_each_add(tiny, pictures):
    keys, images = restored_images(pictures)
    hook = SegmentationScorer(block(tiny, pictures, batch_size=4))
    for key, image in zip(keys, images, strict=True):
        hook.add([key], image[None])
        picture = hook.overlay(key)
        assert picture.shape == (40, 56, 3)
        assert picture.dtype == np.uint8
        colours = np.array(hook.classes.palette)[hook.segmentor.predict(image[None])[0].numpy()]
        assert np.abs(picture - (255 * image.permute(1, 2, 0).numpy() + colours) / 2).max() <= 0.51
    assert hook.overlay("im0") is None
    silent = SegmentationScorer(block(tiny, pictures, overlay=False))
    silent.add(keys[:1], images[0][None])
    assert silent.overlay(keys[0]) is None


def test_nothing_global_changes(tiny, pictures):
    keys, images = restored_images(pictures)
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    switches = (
        torch.backends.cudnn.benchmark,
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    weights = [p.clone() for p in network.parameters()]
    hook = SegmentationScorer(block(tiny, pictures))
    restored = network(torch.stack(images))
    hook.add(keys, restored)
    hook.overlay(keys[0])
    hook.finish()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert switches == (
        torch.backends.cudnn.benchmark, torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    )  # fmt: skip
    restored.sum().backward()  # the graph of the restored images is still whole
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    shared = {id(p) for p in network.parameters()} & {id(p) for p in hook.segmentor.parameters()}
    assert not shared


def test_two_ranks_score_as_one_process(tiny, pictures, free_port):
    context = mp.get_context("spawn")
    queue = context.Queue()
    options = block(tiny, pictures)
    keys, images = restored_images(pictures)
    arguments = (options, keys, torch.stack(images).numpy())
    ranks = [context.Process(target=score_on_rank, args=(rank, free_port, queue, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    shares = [queue.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0
    hook = SegmentationScorer(options)
    hook.add(keys, torch.stack(images))
    whole = hook.finish()
    for share in shares:
        assert share == pytest.approx(whole, nan_ok=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batchsize": 2}, r"val\.segmentation\.batchsize: unknown key; did you mean 'batch_size'"),
        ({"batch_size": 0}, r"val\.segmentation\.batch_size: expected a number above 0"),
        ({"batch_size": "4"}, r"val\.segmentation\.batch_size"),
        ({"amp": "fp16"}, r"val\.segmentation\.amp"),
        ({"overlay": 3}, r"val\.segmentation\.overlay"),
        ({"checkpoint": None}, r"val\.segmentation\.checkpoint"),
        ({"classes": "cityscape"}, "did you mean 'cityscapes'"),
        ({"classes": "camvid"}, "11 classes, but the segmentation network has 5"),
        ({"config": "no_such_config"}, "config 'no_such_config'"),
    ],
)
def test_wrong_options(tiny, pictures, changes, words):
    with pytest.raises(OptionError, match=words):
        SegmentationScorer(block(tiny, pictures, **changes))


def test_missing_option_files(tiny, pictures):
    incomplete = block(tiny, pictures)
    del incomplete["labels"]
    with pytest.raises(OptionError, match=r"val\.segmentation\.labels: this key is missing"):
        SegmentationScorer(incomplete)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        SegmentationScorer(block(tiny, pictures, checkpoint="nowhere.pth"))
    with pytest.raises(DataError, match="nowhere"):
        SegmentationScorer(block(tiny, pictures, labels="nowhere"))


def test_classes_in_another_order_are_refused(tiny, pictures, tmp_path):
    path = tmp_path / "classes.yml"
    path.write_text(yaml.safe_dump(["sky", "road", "tree", "car", "person"]))
    with pytest.raises(OptionError, match="class 0 is 'sky', but 'road' in the checkpoint"):
        SegmentationScorer(block(tiny, pictures, classes=str(path)))


def test_wrong_labels_are_named(tiny, pictures):
    keys, images = restored_images(pictures)
    hook = SegmentationScorer(block(tiny, pictures))
    with pytest.raises(DataError, match="no label for the image 'other'"):
        hook.add(["other"], images[0][None])
    with pytest.raises(DataError, match=r"im0\.png: the label is 56x40, but the restored image is 48x40"):
        hook.add(keys[:1], images[0][None, ..., :48])
    hook.start()
    with pytest.raises(DataError, match="'im1' came twice"):
        hook.add(["im1", "im1"], torch.stack(images[:2]))
    with pytest.raises(DataError, match="1 keys for 2 images"):
        hook.add(["im1"], torch.stack(images[:2]))
    label = label_of(pictures, "im2").numpy()
    label[5, 5] = 77
    cv2.imwrite(str(pictures["labels"] / "im2.png"), label)
    hook.start()
    hook.add(["im2"], images[2][None])
    with pytest.raises(DataError, match=r"im2\.png: label values 77 are outside the 5 classes"):
        hook.finish()


def test_bfloat16_scores_nearly_the_same(tiny, pictures):
    keys, images = restored_images(pictures)
    collected = []
    for amp in (False, "bf16"):
        hook = SegmentationScorer(block(tiny, pictures, amp=amp))
        hook.add(keys, torch.stack(images))
        collected.append(hook.finish()["aAcc"])
    assert collected[0] == pytest.approx(collected[1], abs=3)
