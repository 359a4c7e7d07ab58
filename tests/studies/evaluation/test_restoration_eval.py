from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from d2sm_plugin.data.haze import add_haze, stereo_pair_with_depth
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.studies.evaluation.comparison_pictures import stack, thumbnail
from d2sm_plugin.studies.evaluation.restoration_eval import main, measure


def save(folder, images, suffix=""):
    folder.mkdir(parents=True)
    for key, image in images.items():
        cv2.imwrite(str(folder / f"{key}{suffix}.png"), image[..., ::-1])
    return folder


@pytest.fixture
def sets(tmp_path):
    """Three clean images, their hazy versions, and a "restored" set that is nearer to the clean one."""
    image, depth = stereo_pair_with_depth()
    clean = {f"{i:02d}": np.ascontiguousarray(image[100:220, 60 + 90 * i : 210 + 90 * i]) for i in range(3)}
    hazy = {}
    for i, (key, crop) in enumerate(clean.items()):
        haze = add_haze(crop, depth[100:220, 60 + 90 * i : 210 + 90 * i], 0.5, 0.9)
        hazy[key] = (haze.image * 255).round().astype(np.uint8)
    better = {key: ((crop.astype(int) * 3 + hazy[key]) // 4).astype(np.uint8) for key, crop in clean.items()}
    return {
        "clean": save(tmp_path / "clean", clean),
        "hazy": save(tmp_path / "hazy", hazy),
        "better": save(tmp_path / "better", better, suffix="_msbdn"),
        "images": (clean, hazy, better),
        "out": tmp_path / "out",
    }


def run(sets, *arguments):
    return main(["--clean", str(sets["clean"]), "--out", str(sets["out"]), *map(str, arguments)])


def test_table_of_all_methods(sets, capsys):
    arguments = ("--lq", sets["hazy"], "--dcp", "--restored", f"MSBDN={sets['better']}")
    assert run(sets, *arguments) == 0
    document = json.loads((sets["out"] / "metrics.json").read_text())
    assert list(document) == ["input", "DCP", "MSBDN"]
    assert document["MSBDN"]["PSNR"] > document["DCP"]["PSNR"] > document["input"]["PSNR"]
    table = capsys.readouterr().out
    assert table == (sets["out"] / "table.md").read_text()
    assert f"| MSBDN    | {document['MSBDN']['PSNR']:.2f}" in table
    assert "3 images, 8-bit RGB." in table

    clean, hazy, better = sets["images"]
    expected = np.mean([peak_signal_noise_ratio(clean[key], better[key]) for key in clean])
    assert document["MSBDN"]["PSNR"] == pytest.approx(expected, abs=1e-6)
    with open(sets["out"] / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["image"]) for row in rows][:4] == [
        ("input", "00"),
        ("input", "01"),
        ("input", "02"),
        ("DCP", "00"),
    ]
    assert float(rows[1]["PSNR"]) == pytest.approx(peak_signal_noise_ratio(clean["01"], hazy["01"]), abs=1e-6)


def test_pictures_and_dcp_images_are_written(sets):
    run(sets, "--lq", sets["hazy"], "--dcp", "--pictures", 2)
    assert sorted(path.name for path in (sets["out"] / "pictures").iterdir()) == [
        "00.png",
        "02.png",
        "comparison.png",
    ]
    row = cv2.imread(str(sets["out"] / "pictures" / "00.png"))
    grid = cv2.imread(str(sets["out"] / "pictures" / "comparison.png"))
    assert row.shape[1] >= 3 * 150  # hazy, DCP and clean
    assert grid.shape == (2 * row.shape[0], *row.shape[1:])
    assert np.array_equal(row[-120:, -150:, ::-1], sets["images"][0]["00"])
    assert len(list((sets["out"] / "dcp").iterdir())) == 3
    # The images of the prior are a set like any other.
    prior = f"prior={sets['out'] / 'dcp'}"
    run(sets, "--lq", sets["hazy"], "--lq-name", "hazy", "--restored", prior, "--pictures", 0)
    again = json.loads((sets["out"] / "metrics.json").read_text())
    assert again["prior"]["PSNR"] > again["hazy"]["PSNR"]


def test_measures_agree_with_another_library(sets):
    clean, hazy, _ = sets["images"]
    psnr, ssim = measure(hazy["01"], clean["01"], crop_border=5)
    cut = (slice(5, -5), slice(5, -5))
    assert psnr == pytest.approx(peak_signal_noise_ratio(clean["01"][cut], hazy["01"][cut]), abs=1e-6)
    reference = structural_similarity(
        clean["01"][cut],
        hazy["01"][cut],
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=11,
        data_range=255,
    )
    assert ssim == pytest.approx(reference, abs=1e-5)


def test_equal_images_have_infinite_psnr(sets, capsys):
    run(sets, "--restored", f"itself={sets['clean']}", "--pictures", 0)
    assert json.loads((sets["out"] / "metrics.json").read_text()) == {"itself": {"PSNR": None, "SSIM": 1.0}}
    assert "inf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to compare"),
        (["--dcp", "--restored", "a={better}"], "say where they are with --lq"),
        (["--restored", "{better}"], "expected NAME=PATH"),
        (["--restored", "a={better}", "--restored", "a={hazy}"], "'a' is taken twice"),
        (["--restored", "clean={better}"], "'clean' is taken twice"),
        (["--restored", "a={better}", "--crop-border", "60"], "leaves too little of .*00.png"),
    ],
)
def test_bad_arguments_are_refused(sets, arguments, message):
    with pytest.raises(OptionError, match=message):
        run(sets, *(argument.format(**sets) for argument in arguments))


def test_missing_image_is_named(sets):
    (sets["hazy"] / "01.png").unlink()
    with pytest.raises(DataError, match=r"hazy: it lacks 1 of the images of .*clean \(first: '01'\)"):
        run(sets, "--lq", sets["hazy"])


def test_image_of_another_size_is_named(sets):
    cv2.imwrite(str(sets["hazy"] / "01.png"), np.zeros((120, 140, 3), np.uint8))
    with pytest.raises(DataError, match=r"01.png: the image is 140x120 .*, the clean one 150x120"):
        run(sets, "--lq", sets["hazy"])


def test_pictures_of_different_widths_stack():
    rows = [np.zeros((4, 10, 3), np.uint8), np.zeros((3, 6, 3), np.uint8)]
    stacked = stack(rows)
    assert stacked.shape == (7, 10, 3)
    assert (stacked[4:, 6:] == 255).all()
    assert thumbnail(rows[0], 5).shape == (2, 5, 3)
    assert thumbnail(rows[0], 50) is rows[0]
