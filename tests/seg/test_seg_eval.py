from __future__ import annotations

import csv
import json
import math
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from seg_material import TINY_CLASSES

import d2sm_plugin  # noqa: F401  # registers the networks
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.noise import noise_for_key
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.pipeline.image_records import RECORDS, read_records
from d2sm_plugin.seg.classes import ClassSet
from d2sm_plugin.seg.confusion import SegScores
from d2sm_plugin.seg.segmentor import build_segmentor
from d2sm_plugin.studies.evaluation.methods import Method, stored_method
from d2sm_plugin.studies.evaluation.seg_eval import main
from d2sm_plugin.studies.evaluation.seg_report import document, tables
from d2sm_plugin.studies.evaluation.seg_scoring import MethodScores, score_method

TOOL = Path(__file__).parents[2] / "tools/seg_eval.py"


@pytest.fixture
def command(tiny, pictures):
    """Arguments that score one restored set, to be extended."""
    return [
        *("--config", tiny[0], "--checkpoint", tiny[1], "--labels", str(pictures["labels"])),
        *("--restored", f"L1={pictures['restored']}", "--device", "cpu"),
    ]


def expected_miou(tiny, pictures, name) -> float:
    """MIoU by mmseg's own metric, of our predictions."""
    from mmseg.evaluation import IoUMetric

    segmentor = build_segmentor(*tiny)
    areas = []
    for path in sorted(pictures[name].glob("*.png")):
        image = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1)[None]
        label = torch.from_numpy(cv2.imread(str(pictures["labels"] / path.name), cv2.IMREAD_UNCHANGED)).long()
        areas.append(IoUMetric.intersect_and_union(segmentor.predict(image)[0], label, 5, 255))
    sums = [sum(column) for column in zip(*areas, strict=True)]
    return 100 * float(np.nanmean(IoUMetric.total_area_to_metrics(*sums, ["mIoU"])["IoU"]))


def test_rows_are_compared_with_a_reference_image_by_image(command, pictures, tmp_path, capsys):
    extra = ["--restored", f"clean={pictures['clean']}", "--reference", "L1", "--block", "1", "--out", str(tmp_path)]
    assert main([*command, *extra]) == 0
    assert "mIoU against L1 [95 % interval]" in capsys.readouterr().out
    records, actual = read_records(tmp_path / RECORDS), json.loads((tmp_path / "metrics.json").read_text())
    assert list(records) == ["L1", "clean"]
    for name, rows in records.items():
        right, union = np.stack([row.counts for row in rows]).sum(0)
        assert 100 * np.mean(right[union > 0] / union[union > 0]) == pytest.approx(actual[name]["mIoU"])
    [line] = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| clean")]
    value, low, high = (float(v) for v in re.findall(r"[+-][0-9.]+", line))
    assert value == pytest.approx(actual["clean"]["mIoU"] - actual["L1"]["mIoU"], abs=0.006)
    assert low <= value <= high
    with pytest.raises(OptionError, match="--reference L2: no row has this name"):
        main([*command, "--reference", "L2"])


def expected_scores(tiny, pictures, name, key) -> tuple[float, float, float]:
    """Accuracy of the pixels, mean accuracy and mean IoU of one image in percent, counted class by class."""
    image = torch.from_numpy(cv2.imread(str(pictures[name] / f"{key}.png"))[..., ::-1].copy()).permute(2, 0, 1)
    label = cv2.imread(str(pictures["labels"] / f"{key}.png"), cv2.IMREAD_UNCHANGED)
    predicted = build_segmentor(*tiny).predict(image[None])[0].numpy()
    counted = label != 255
    acc = [np.mean(predicted[label == c] == c) for c in range(5) if (label == c).any()]
    iou = [
        np.sum((predicted == c) & (label == c)) / np.sum(((predicted == c) | (label == c)) & counted)
        for c in range(5)
        if (((predicted == c) | (label == c)) & counted).any()
    ]
    right = np.mean(predicted[counted] == label[counted])
    return 100 * right, 100 * float(np.mean(acc)), 100 * float(np.mean(iou))


def test_accuracy_of_each_image(command, tiny, pictures, tmp_path):
    extra = ["--restored", f"a/b={pictures['clean']}", "--out", str(tmp_path), "--overlays", "2"]
    assert main([*command, *extra]) == 0
    records = read_records(tmp_path / RECORDS)
    for name, source in (("L1", "restored"), ("a/b", "clean")):
        for row in records[name]:
            expected = expected_scores(tiny, pictures, source, row.key)
            assert [row.values[m] for m in ("aAcc", "mAcc", "mIoU")] == pytest.approx(expected)
    values = {name: {row.key: row.values for row in rows} for name, rows in records.items()}
    cells = [" / ".join(f"{values[name]['im2'][m]:.2f}" for m in ("aAcc", "mAcc", "mIoU")) for name in ("L1", "a/b")]
    table = re.sub(" +", " ", (tmp_path / "table.md").read_text())
    assert f"| im2 | {cells[0]} | {cells[1]} |" in table
    assert "| im1 |" not in table
    assert sorted(path.name for path in (tmp_path / "comparison").iterdir()) == ["im0.png", "im2.png"]


def test_two_methods_with_everything(command, tiny, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    extra = ["--restored", f"a/b={pictures['clean']}", "--clean", str(pictures["clean"]), "--out", str(out)]
    assert main([*command, *extra, "--overlays", "2", "--batch-size", "2"]) == 0
    actual = json.loads((out / "metrics.json").read_text())
    assert list(actual) == ["L1", "a/b"]
    assert set(actual["L1"]) == {"mIoU", "aAcc", "mAcc", "IoU", "PSNR"}
    assert list(actual["L1"]["IoU"]) == TINY_CLASSES
    assert actual["L1"]["mIoU"] == pytest.approx(expected_miou(tiny, pictures, "restored"), rel=1e-5)
    assert actual["a/b"]["mIoU"] == pytest.approx(expected_miou(tiny, pictures, "clean"), rel=1e-5)
    assert 25 < actual["L1"]["PSNR"] < 35
    assert actual["a/b"]["PSNR"] is None  # infinite
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert float(rows[0]["mIoU"]) == pytest.approx(actual["L1"]["mIoU"])
    assert [name for name in rows[0] if name.startswith("IoU/")] == [f"IoU/{name}" for name in TINY_CLASSES]
    assert sorted(p.relative_to(out).as_posix() for p in out.glob("overlays/*/*")) == [
        *("overlays/L1/im0.png", "overlays/L1/im2.png", "overlays/a_b/im0.png", "overlays/a_b/im2.png"),
    ]
    assert cv2.imread(str(out / "iou_by_class.png")).shape[1] > 500
    printed = capsys.readouterr().out
    assert f"{actual['L1']['mIoU']:.2f}" in printed
    assert "PSNR [dB]" in printed
    assert "inf" in printed
    assert not list(out.rglob("*.partial"))


def test_without_clean_images_or_folder(command, capsys):
    assert main([*command, "--amp"]) == 0
    printed = capsys.readouterr().out
    assert "PSNR" not in printed
    assert "| road " in printed


def test_suffix_of_testing_and_lmdb(command, pictures, tmp_path):
    for path in list(pictures["restored"].glob("*.png")):
        path.rename(path.with_name(f"{path.stem}_FFDNet.png"))
    out = tmp_path / "out"
    assert main([*command, "--out", str(out), "--overlays", "0"]) == 0
    assert not (out / "overlays").exists()


@pytest.fixture
def restoration(tmp_path, pictures) -> list[str]:
    """Option file and checkpoint of a small FFDNet."""
    from basicsr.utils.registry import ARCH_REGISTRY

    arguments = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_layers": 3}
    torch.manual_seed(0)
    network = ARCH_REGISTRY.get("FFDNet")(**arguments)
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    lines = ["name: t", "datasets:", "  test:", "    type: NoisyImageDataset", "    sigma: 25"]
    lines += [f"    dataroot_gt: {pictures['clean']}", "network_g:", "  type: FFDNet"]
    (tmp_path / "t.yml").write_text("\n".join(lines + [f"  {k}: {v}" for k, v in arguments.items()]) + "\n")
    return ["--opt", str(tmp_path / "t.yml"), "--restoration-checkpoint", str(tmp_path / "net.pth")]


def test_restoring_by_itself(command, tiny, restoration, pictures, tmp_path):
    out = tmp_path / "out"
    extra = [*restoration, "--sigma", "25", "50", "--clean", str(pictures["clean"]), "--out", str(out)]
    assert main([*command, *extra]) == 0
    actual = json.loads((out / "metrics.json").read_text())
    assert list(actual) == ["clean", "noisy 25", "FFDNet 25", "noisy 50", "FFDNet 50", "L1"]
    assert actual["clean"]["mIoU"] == pytest.approx(expected_miou(tiny, pictures, "clean"), rel=1e-5)
    assert 20 < actual["noisy 25"]["PSNR"] < 22  # clipping removes a little of the noise
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    for path in pictures["clean"].glob("*.png"):
        image = cv2.imread(str(path))[..., ::-1] / np.float32(255)
        image = image + noise_for_key(path.stem, 50, (3, *image.shape[:2])).permute(1, 2, 0).numpy()
        cv2.imwrite(str(noisy / path.name), (image[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8))
    reference = expected_miou(tiny, {**pictures, "noisy": noisy}, "noisy")
    assert actual["noisy 50"]["mIoU"] == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--restored", "only_a_path"], "expected NAME=PATH"),
        (["--restored", "L1="], "expected NAME=PATH"),
        (["--opt", "x.yml"], "needs --clean, --restoration-checkpoint, --sigma"),
        (["--sigma", "25"], "belong to --opt"),
        (["--batch-size", "0"], "argument --batch-size: expected a whole number from 1"),
        (["--device", "gpu"], "argument --device: .* cannot be used"),
        (["--device", "cuda:99"], "argument --device: .* cannot be used"),
        (["--classes", "camvid"], "11 classes, but the segmentation network has 5"),
    ],
)
def test_wrong_arguments(command, extra, words):
    with pytest.raises(OptionError, match=words):
        main([*command, *extra])


def test_repeated_name_and_nothing_to_score(command, tiny, pictures):
    with pytest.raises(OptionError, match="'L1' is taken twice"):
        main([*command, "--restored", f"L1={pictures['clean']}"])
    with pytest.raises(OptionError, match="nothing to score"):
        main(["--config", tiny[0], "--checkpoint", tiny[1], "--labels", str(pictures["labels"])])


def test_unequal_sets_are_named(command, pictures):
    (pictures["labels"] / "im1.png").unlink()
    with pytest.raises(DataError, match=r"labels: it lacks 1 of the images of .*restored \(first: 'im1'\)"):
        main(command)
    (pictures["restored"] / "im1.png").unlink()
    (pictures["restored"] / "im2.png").unlink()
    with pytest.raises(DataError, match=r"restored: it lacks 1 of the images of .*labels \(first: 'im2'\)"):
        main(command)


def test_wrong_files_are_named(command, pictures):
    clean = ["--clean", str(pictures["clean"])]
    label = cv2.imread(str(pictures["labels"] / "im1.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(pictures["labels"] / "im1.png"), label[:, :-2])
    with pytest.raises(DataError, match=r"labels/im1\.png: the label is 54x40, but .*restored/im1\.png is 56x40"):
        main(command)
    label[3, 3] = 200
    cv2.imwrite(str(pictures["labels"] / "im1.png"), label)
    with pytest.raises(DataError, match=r"labels/im1\.png: label values 200 are outside the 5 classes"):
        main(command)
    label[3, 3] = 255
    cv2.imwrite(str(pictures["labels"] / "im1.png"), label)
    cv2.imwrite(str(pictures["clean"] / "im2.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"restored/im2\.png: the image is 56x40, but .*clean/im2\.png is 9x9"):
        main([*command, *clean])
    (pictures["restored"] / "im0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"restored/im0\.png"):
        main(command)


def test_tool_prints_one_line_and_fails(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(TOOL), *command, "--classes", "cityscape"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert end.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: classes 'cityscape': no such class set")
    assert len(printed.splitlines()) == 1


def test_computed_images_are_not_read_ahead(tiny, pictures):
    labels = open_images(pictures["labels"])
    seen: list[str] = []
    stored = stored_method("x", open_images(pictures["restored"]), labels.keys, "labels")

    def read(key: str) -> np.ndarray:
        seen.append(key)
        return stored.read(key)

    segmentor = build_segmentor(*tiny)
    classes = ClassSet("tiny", tuple(TINY_CLASSES), tuple((i, i, i) for i in range(5)))
    counted: list[int] = []
    computed = Method("x", read, stored.describe, computed=True)
    first = score_method(
        computed, labels, classes, segmentor, batch_size=1, on_image=lambda *_: counted.append(len(seen))
    )
    assert counted == [1, 2, 3]
    assert first == score_method(stored, labels, classes, segmentor, batch_size=3)


def test_report_of_undefined_scores():
    scores = SegScores(50.0, 60.0, 55.0, {"road": 50.0, "sky": math.nan}, {"road": 55.0, "sky": math.nan})
    results = [MethodScores("a", scores, None)]
    assert document(results)["a"]["IoU"] == {"road": 50.0, "sky": None}
    json.dumps(document(results), allow_nan=False)
    assert "| sky       | -     |" in tables(results)
