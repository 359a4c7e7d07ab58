from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from semantic_material import EXTRACTOR, VIEW, make_blurred, make_network

from d2sm_plugin.data.noise import noise_for_key
from d2sm_plugin.errors import CheckpointError, DataError, OptionError, ShapeError
from d2sm_plugin.losses import D2SMLoss
from d2sm_plugin.studies.evaluation.divergence_eval import main
from d2sm_plugin.studies.evaluation.divergence_report import Divergence, change
from d2sm_plugin.studies.evaluation.semantic_features import Samples, groups_of
from d2sm_plugin.studies.evaluation.semantic_views import read_views

TOOL = Path(__file__).parents[3] / "tools/divergence_eval.py"


@pytest.fixture(autouse=True)
def _same_random_extractor():
    torch.manual_seed(0)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_levels_two_views_a_network_and_folders(photographs, tmp_path, capsys):
    option_file, weights = make_network(tmp_path)
    make_blurred(photographs, tmp_path / "blurred15", 1)
    make_blurred(photographs, tmp_path / "blurred50", 3)
    out = tmp_path / "out"
    status = main(
        [
            *("--clean", str(photographs), "--sigma", "15", "50", "--opt", str(option_file), "--device", "cpu"),
            *("--restored", f"net={weights}", "--restored", f"blurred={tmp_path}/blurred{{sigma}}"),
            *("--extractor", f"windows={VIEW}", "--extractor", EXTRACTOR, "--reference", "noisy", "--out", str(out)),
        ]
    )
    assert status == 0
    rows = read(out / "divergence.csv")
    assert [(row["extractor"], row["sigma"], row["method"]) for row in rows] == [
        (view, sigma, method)
        for view in ("windows", "VGG19Features")
        for sigma in ("15", "50")
        for method in ("noisy", "net", "blurred")
    ]
    assert rows[0]["samples"] == str(6 * 25)  # the whole grid, although training draws 2 windows
    assert rows[-1]["samples"] == "6"
    by_row = {(row["extractor"], row["sigma"], row["method"]): float(row["kl"]) for row in rows}
    for view in ("windows", "VGG19Features"):
        for method in ("noisy", "blurred"):
            assert 0 < by_row[view, "15", method] < by_row[view, "50", method]
    images = [float(r["kl_per_sample"]) for r in read(out / "per_image.csv") if r["method"] == "net"]
    assert len(images) == 2 * 2 * 6
    assert np.mean(images[:6]) == pytest.approx(float(rows[1]["kl_per_sample"]), rel=1e-9)
    assert cv2.imread(str(out / "divergence.png")).shape[1] > 600
    printed = capsys.readouterr().out
    assert "windows: 150 samples of 6 images, compared all with all" in printed
    assert "KL against noisy" in printed
    assert not list(out.glob("*.partial"))


def test_value_is_that_of_the_objective(photographs, tmp_path):
    """The images of a row are those of validation, and its sum is what the objective gives for all at once."""
    out = tmp_path / "out"
    main(["--clean", str(photographs), "--sigma", "25", "--extractor", VIEW, "--out", str(out), "--device", "cpu"])
    torch.manual_seed(0)
    (view,) = read_views([VIEW], "cpu")
    paths = sorted(photographs.glob("*.png"))
    clear = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
    clear = torch.from_numpy(clear).permute(0, 3, 1, 2).float() / 255
    noise = torch.stack([noise_for_key(path.stem, 25, (3, 96, 96)) for path in paths])
    noisy = ((clear + noise).clamp(0, 1) * 255).round() / 255
    patches = {"type": "PatchSampler", "size": 32, "stride": 16}
    objective = D2SMLoss(view.objective.extractor, patches=patches)
    (row,) = read(out / "divergence.csv")
    assert float(row["kl"]) == pytest.approx(objective(noisy, clear).item(), rel=1e-4)


def test_nothing_between_a_set_and_itself(photographs, tmp_path):
    out = tmp_path / "out"
    command = ["--clean", str(photographs), "--restored", f"same={photographs}", "--extractor", VIEW, "--group", "40"]
    assert main([*command, "--out", str(out), "--images", "4", "--device", "cpu"]) == 0
    (row,) = read(out / "divergence.csv")
    assert (row["sigma"], row["images"], row["samples"], row["groups"]) == ("", "4", "100", "3")
    names = ("kl", "reverse_kl", "feature_mse", "cosine_distance", "own_nearest")
    assert [float(row[name]) for name in names] == [0, 0, 0, 0, 1]


def test_same_result_twice(photographs, tmp_path):
    collected = []
    for name in ("a", "b"):
        torch.manual_seed(0)
        command = ["--clean", str(photographs), "--sigma", "25", "--extractor", VIEW, "--group", "64"]
        main([*command, "--out", str(tmp_path / name), "--device", "cpu"])
        collected.append((tmp_path / name / "per_image.csv").read_bytes())
    assert collected[0] == collected[1]


def test_view_of_a_training_file(tmp_path):
    block = f"type: D2SMLoss, queue: {{type: QueueSampler, size: 8}}, loss_weight: 2, extractor: {EXTRACTOR}, "
    block += "patches: {type: SpatialSampler, max_positions: 4, scope: image}"
    files = {"full.yml": f"train: {{total_iter: 5, x_opt: {{{block}}}}}", "part.yml": f"d2sm_opt: {{{block}}}"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    views = read_views([f"{name}={tmp_path / name}" for name in files], "cpu")
    for view in views:
        assert view.within_images
        image = np.zeros((32, 48, 3), np.uint8)
        assert view.samples(image).shape == (16 * 24, 128)
        assert view.objective.queue is None


def test_every_layer_is_a_view():
    extractor = "{type: TimmFeatures, model: test_resnet, weights: ~}"
    entry = f"maps={{type: MultiLayerD2SMLoss, queue: 8, layers: [8, 16], extractor: {extractor}}}"
    views = read_views([entry], "cpu")
    assert [view.name for view in views] == ["maps 8", "maps 16"]
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    for view, stride in zip(views, (8, 16), strict=True):
        samples = view.samples(image)
        assert len(samples) == (64 // stride) * (96 // stride)
        (feature_map,) = views[0].objective.extractor.network.feature_maps(images, [stride])
        torch.testing.assert_close(samples, feature_map[0].flatten(1).T)


def test_groups_hold_every_sample_once():
    (view,) = read_views([VIEW], "cpu")
    samples = Samples(torch.zeros(50, 3), torch.arange(50) // 10)
    groups = groups_of(samples, view, 16)
    assert sorted(map(len, groups)) == [12, 12, 13, 13]
    assert torch.cat(groups).sort().values.tolist() == list(range(50))
    assert len(samples.image[groups[0]].unique()) == 5
    (inside,) = read_views([VIEW.replace("max_patches: 2", "scope: image")], "cpu")
    assert [group.tolist() for group in groups_of(samples, inside, None)][1] == list(range(10, 20))
    with pytest.raises(OptionError, match="leave --group out"):
        groups_of(samples, inside, 16)
    with pytest.raises(OptionError, match="a single sample"):
        groups_of(Samples(torch.zeros(1, 3), torch.zeros(1)), view, None)


def test_change_is_paired():
    def result(values):
        return Divergence("v", 25, "m", 3, 1, None, np.array(values))

    percent, error = change(result([1.1, 2.1, 3.1]), result([1.0, 2.0, 3.0]))
    assert percent == pytest.approx(5)
    assert error == pytest.approx(0, abs=1e-9)
    assert change(result([1.0]), result([2.0])) == (-50, np.inf)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], OptionError, "nothing to compare"),
        (["--sigma", "25", "25"], OptionError, "every noise level once"),
        (["--sigma", "25", "--images", "0"], OptionError, "from 1 on"),
        (["--sigma", "25", "--group", "1"], OptionError, "from 2 on"),
        (["--sigma", "25", "--reference", "noisi"], OptionError, "did you mean 'noisy'"),
        (["--sigma", "25", "--restored", "noisy=x"], OptionError, "'noisy' is taken twice"),
        (["--sigma", "25", "--restored", "x"], OptionError, "expected NAME=PATH"),
        (["--sigma", "25", "--restored", "a=nowhere"], CheckpointError, "neither weights nor a folder"),
        (["--sigma", "25", "--restored", "a={weights}"], OptionError, "weights need --opt"),
        (["--sigma", "25", "50", "--restored", "a={photographs}"], OptionError, "write {sigma} in its path"),
        (["--restored", "a={empty}"], DataError, "holds no image"),
        (["--sigma", "25", "--extractor", "{type: TimmFeature}"], OptionError, "did you mean 'TimmFeatures'"),
        (["--sigma", "25", "--extractor", "nowhere.yml"], OptionError, "no such option file"),
        (["--sigma", "25", "--extractor", "{no_objective}"], OptionError, "found 0"),
        (["--sigma", "25", "--extractor", VIEW], OptionError, "'VGG19Features' is taken twice"),
        (["--sigma", "25", "--extractor", "b=" + VIEW.replace("size: 32", "size: 99")], ShapeError, "astronaut_0.png"),
        (["--sigma", "25", "--device", "gpu"], OptionError, "give cpu, cuda or cuda:0"),
    ],
)
def test_says_what_is_wrong(photographs, tmp_path, arguments, error, message):
    _, weights = make_network(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.yml").write_text("train: {total_iter: 5}")
    places = {"{weights}": weights, "{photographs}": photographs, "{empty}": tmp_path / "empty"}
    places["{no_objective}"] = tmp_path / "no.yml"
    for name, path in places.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    with pytest.raises(error) as caught:
        main(["--clean", str(photographs), "--extractor", VIEW, "--device", "cpu", *arguments])
    assert message in str(caught.value)


def test_tool_prints_one_line_for_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--clean", "nowhere", "--sigma", "25", "--extractor", VIEW])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: nowhere: no such folder")
