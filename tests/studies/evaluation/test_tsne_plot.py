from __future__ import annotations

import csv
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from semantic_material import EXTRACTOR, VIEW, make_blurred, make_network

from d2sm_plugin.errors import OptionError

pytest.importorskip("sklearn", reason="needs the extra [plots]")

from d2sm_plugin.studies.evaluation import tsne_plot
from d2sm_plugin.studies.evaluation.class_scores import class_scores
from d2sm_plugin.studies.evaluation.tsne_plot import choose, embed, main

TOOL = Path(__file__).parents[3] / "tools/plot_tsne.py"


@pytest.fixture
def command(photographs, tmp_path) -> list[str]:
    option_file, weights = make_network(tmp_path)
    make_blurred(photographs, tmp_path / "blurred", 0.5)
    return [
        *("--clean", str(photographs), "--sigma", "50", "--opt", str(option_file), "--device", "cpu"),
        *("--restored", f"net={weights}", "--restored", f"a little blurred={tmp_path}/blurred"),
        *("--extractor", f"windows/32={VIEW}", "--samples", "40", "--perplexity", "8"),
    ]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_picture_points_and_scores(command, tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(sys, "argv", [str(TOOL), *command, "--lines", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert stopped.value.code == 0
    out = tmp_path / "out"
    assert cv2.imread(str(out / "tsne_windows_32_sigma50.png")).shape[1] > 900
    points = read(out / "tsne_windows_32_sigma50.csv")
    assert [row["method"] for row in points[::40]] == ["noisy", "net", "a little blurred", "clean"]
    assert len({row["image"] for row in points}) == 6
    assert np.isfinite([[float(row["x"]), float(row["y"])] for row in points]).all()
    scores = {row["method"]: row for row in read(out / "scores.csv")}
    assert float(scores["noisy"]["own_nearest"]) < float(scores["a little blurred"]["own_nearest"])
    assert float(scores["noisy"]["mixed"]) < float(scores["a little blurred"]["mixed"]) <= 0.6
    assert "| windows/32  | 50  | a little blurred |" in capsys.readouterr().out
    assert not list(out.glob("*.partial"))


def test_whole_images_and_saved_sets_only(photographs, tmp_path):
    command = ["--clean", str(photographs), "--restored", f"same={photographs}", "--device", "cpu", "--samples", "60"]
    main([*command, "--extractor", VIEW, "--perplexity", "8", "--out", str(tmp_path / "out")])
    (row,) = read(tmp_path / "out" / "scores.csv")
    assert (row["sigma"], row["own_nearest"], float(row["mixed"])) == ("", "1.0", pytest.approx(0.5, abs=1e-6))
    assert (tmp_path / "out" / "tsne_VGG19Features.png").is_file()


def test_classes_are_folders(photographs, tmp_path):
    """A panel for each set with a colour for each class; of clear images scores are those of the set itself."""
    for number, file in enumerate(sorted(photographs.iterdir())):
        folder = tmp_path / "classes" / ("cat" if number < 3 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    command = ["--clean", str(tmp_path / "classes"), "--sigma", "25", "--device", "cpu", "--samples", "60"]
    main([*command, "--extractor", VIEW, "--perplexity", "8", "--classes", "--out", str(tmp_path / "out")])
    scores = {row["method"]: row for row in read(tmp_path / "out" / "class_scores.csv")}
    assert list(scores) == ["noisy", "clean"]
    assert 0 < float(scores["noisy"]["class_nearest"]) <= 1
    assert (tmp_path / "out" / "classes_VGG19Features_sigma25.png").is_file()
    command[1] = str(photographs)
    with pytest.raises(OptionError, match="--classes takes a folder of images for each class"):
        main([*command, "--extractor", VIEW, "--perplexity", "8", "--classes", "--out", str(tmp_path / "out")])


def test_scores_of_classes_equal_a_count_by_hand():
    generator = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 20)
    clear = generator.standard_normal((60, 8)) + 3 * np.eye(8)[classes]
    restored = clear + 0.5 * generator.standard_normal(clear.shape)
    shares = []
    for i, sample in enumerate(restored):
        cosines = {
            j: sample @ other / np.linalg.norm(sample) / np.linalg.norm(other)
            for j, other in enumerate(clear)
            if j != i
        }
        nearest = sorted(cosines, key=lambda j: -cosines[j])[:10]
        shares.append(sum(classes[j] == classes[i] for j in nearest) / 10)
    assert class_scores(restored, clear, classes, seed=0).class_nearest == pytest.approx(np.mean(shares))
    apart = 100 * np.eye(8)[classes] + generator.standard_normal((60, 8))
    assert class_scores(apart, apart, classes, seed=0) == pytest.approx((1, 1, 1), abs=0.05)


def test_embedding_repeats_and_keeps_clusters_apart():
    generator = np.random.default_rng(0)
    sets = [generator.standard_normal((30, 6)) + 20 * np.eye(6)[i] for i in range(2)]
    first, second = (embed(sets, 10, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert [points.shape for points in first] == [(30, 2), (30, 2)]
    centres = [points.mean(0) for points in first]
    assert np.linalg.norm(centres[0] - centres[1]) > max(points.std() for points in first)


def test_choice_is_fixed():
    assert choose(5, 10).tolist() == [0, 1, 2, 3, 4]
    chosen = choose(1000, 40).tolist()
    assert chosen == sorted(set(chosen)) == choose(1000, 40).tolist()
    assert len(chosen) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--perplexity", "60"], "with 160 points it must be from 1 to 53"),
        (["--perplexity", "0"], "expected a number from 1"),
        (["--samples", "11"], "--samples: expected a whole number from 12"),
        (["--extractor", f"whole={EXTRACTOR}"], "too few for scores"),
    ],
)
def test_says_what_is_wrong(command, tmp_path, arguments, message):
    with pytest.raises(OptionError) as caught:
        main([*command, *arguments, "--out", str(tmp_path / "out")])
    assert message in str(caught.value)


def test_too_few_images_are_refused_before_features_are_taken(photographs, tmp_path, monkeypatch):
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(Path(photographs).glob("*.png"))[:4]:
        shutil.copy(file, few)
    monkeypatch.setattr(tsne_plot, "collect_samples", lambda *_: pytest.fail("features were taken"))
    command = ["--clean", str(few), "--restored", f"same={few}", "--device", "cpu", "--extractor", VIEW]
    with pytest.raises(OptionError, match=r"few: 4 image\(s\) are too few; scores take 5 folds of images"):
        main([*command, "--out", str(tmp_path / "out")])
