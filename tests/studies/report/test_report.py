"""The report of a training, a test and a suite: what is on the page, and that nothing on it runs or is fetched."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from skimage import data

from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.pipeline.image_records import ImageRecord, write_records
from d2sm_plugin.pipeline.metrics_file import MetricsFile
from d2sm_plugin.pipeline.pictures import lay_out, read_sheet, stack_sheets, write_sheet
from d2sm_plugin.studies.report.report import main, report
from d2sm_plugin.studies.report.run_page import worst_images
from d2sm_plugin.studies.report.step_lines import read_steps

HOSTILE = '<img src=x onerror="alert(1)">&'
VOID = {"meta", "link", "img", "input", "br"}


class Structure(HTMLParser):
    """Elements of a page by name, with their attributes and texts; every element must be closed where it belongs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if text.strip():
            self.texts.append((self.open[-1] if self.open else "", text.strip()))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def picture(noise: int, size: int = 96) -> np.ndarray:
    clean = data.astronaut()[:size, 100 : 100 + size]
    drawn = np.random.default_rng(0).normal(0, noise, clean.shape) if noise else 0
    return (clean + drawn).clip(0, 255).astype(np.uint8)


def images() -> dict[str, np.ndarray]:
    return {"input": picture(50), "restored": picture(12), "clean": picture(0)}


@pytest.fixture
def training(tmp_path):
    """The folder of a training as the pipeline leaves it, with names that would be markup."""
    folder = tmp_path / "experiments" / "mine"
    options = {
        "name": "mine <b>",
        "is_train": True,
        "network_g": {"type": "FFDNet"},
        "train": {"total_iter": 300, "pixel_opt": {"type": "L1Loss"}, "note": HOSTILE},
        "val": {"metrics": {"psnr": {"type": "calculate_psnr"}, "mine": {"type": "NobodysMetric"}}},
    }
    folder.mkdir(parents=True)
    (folder / "options.yml").write_text(yaml.safe_dump(options))
    (folder / "mine.yml").write_text(f"# d2sm train {HOSTILE}\nname: mine\n")
    lines = ["INFO: d2sm_plugin 1, torch 2", "INFO: Gradient of pixel: norm 1"]
    lines += [
        f"INFO: [mine..][epoch:  0, iter: {step:7,d}, lr:(1.000e-03,)] [eta: 0:00:01, time (data): 0.1 (0.0)] "
        f"l_pixel: {1 / step:.4e} weight/d2sm: {value} "
        for step, value in ((100, "2.0000e+00"), (1200, "nan"))
    ]
    text = "\n".join(f"2026-11-27 21:04:41,119 {line}" for line in lines)
    (folder / "train_mine_20261127_210441.log").write_text(text)
    metrics = MetricsFile(folder / "metrics.csv")
    for step, psnr in ((100, 29.5), (300, 28.25)):
        metrics.add(step, {f"photos {HOSTILE}": (2, {"psnr": psnr, "mine": 1.0, "IoU/road": 50.0})})
    records = [
        ImageRecord(key, {"psnr": psnr}, np.array([[5, 0], [10, 0]])) for key, psnr in (("a", 31.0), (HOSTILE, 25.5))
    ]
    write_records(folder / "by_image.csv", {f"photos {HOSTILE}": records}, ["road", "sky"])
    write_sheet(folder / "visualization" / "photos" / "a_300.png", lay_out(images()))
    write_sheet(folder / "visualization" / "photos" / "a_100.png", lay_out(images()))
    return folder


def test_a_sheet_gives_its_images_back(tmp_path):
    first, second = images(), {"L1 ü": picture(5), "small": picture(9)[::2, ::2]}
    sheet = stack_sheets([lay_out(first), lay_out(second)])
    write_sheet(tmp_path / "a.png", sheet)
    again = read_sheet(tmp_path / "a.png")
    assert list(again.images()) == [*first, *second]
    for name, image in {**first, "L1 ü": second["L1 ü"], "small": second["small"].repeat(2, 0).repeat(2, 1)}.items():
        assert np.array_equal(again.images()[name], image)
    assert read_sheet(tmp_path / "a.png").pixels.shape == sheet.pixels.shape
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    with pytest.raises(DataError, match=r"b\.png: it is no picture, or damaged"):
        read_sheet(tmp_path / "b.png")
    write_sheet(tmp_path / "c.png", sheet._replace(windows={"outside": (0, 0, 10**6, 5)}))
    with pytest.raises(DataError, match=r"c\.png: .* outside of it"):
        read_sheet(tmp_path / "c.png")


def test_a_training(training, capsys):
    assert main([str(training)]) == 0
    assert capsys.readouterr().out.startswith(f"{training / 'report.html'}: 0.")
    page = Structure((training / "report.html").read_text(encoding="utf-8"))
    assert page.said("h1") == ["mine <b>"]
    assert page.said("h2") == [
        "Training", "Validation", "Pictures", "Failure cases", "Configuration and environment",
    ]  # fmt: skip
    assert "FFDNet, step 1,200 of 300; objectives: pixel" in page.said("p")
    assert {"28.250", "1.00"} <= set(page.said("b"))
    assert "best 29.500 at step 100" in page.said("small")
    assert [drawing["aria-label"].split(".")[0] for drawing in page.all("svg")] == [
        "Loss pixel", "learning rate", "weight/d2sm", "PSNR [dB]", "mine",
    ]  # fmt: skip
    assert all(image["alt"] for image in page.all("img")) and len(page.all("img")) == 3
    [boundary] = [control for control in page.all("input") if control["type"] == "range"]
    assert boundary["aria-label"].endswith("of a, photos")
    assert page.said("option") == 2 * ["input", "restored", "clean"]
    assert "Lowest PSNR [dB] of 2 images of photos " + HOSTILE in page.said("caption")
    assert any("total_iter: 300" in text for text in page.said("pre"))


def test_nothing_is_fetched_and_no_text_is_markup(training):
    text = report(training)
    page = Structure(text)
    assert HOSTILE not in text
    addresses = [e.get(key) for _, e in page.elements for key in ("src", "href", "srcset", "action") if e.get(key)]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?:|@import|url\(", text.split("</head>")[0])
    assert not [key for _, e in page.elements for key in e if key.startswith("on") or key == "style"]
    assert len(page.all("script")) == 1
    [policy] = [e["content"] for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_every_label_belongs_to_something_and_headings_are_in_order(training):
    page = Structure(report(training))
    assert page.all("html") == [{"lang": "en"}]
    levels = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels == ["h1", *["h2"] * 5]
    names = [e["id"] for _, e in page.elements if "id" in e]
    assert len(names) == len(set(names))
    assert {e["href"][1:] for e in page.all("a")} <= set(names)
    assert {e["aria-labelledby"] for e in page.all("section")} <= set(names)
    assert all(e.get("scope") in ("col", "row") for e in page.all("th"))
    assert all(e.get("role") == "img" and e["aria-label"] for e in page.all("svg"))


def test_the_size_is_bounded(training):
    for number in range(6):
        write_sheet(training / "visualization" / "photos" / f"more_{number}_300.png", lay_out(images()))
    small, large = report(training, 100_000, 9), report(training, 10**7, 9)
    assert len(small) < 160_000 < len(large)
    assert large.count('class="slider"') == 7 > small.count('class="slider"') > 0
    assert "Left out for the size of the page" in small
    assert report(training, 10**7, 2).count('class="slider"') == 2
    assert "slider" not in report(training, 0).split("</style>")[1].split("<script>")[0]


def test_large_images_show_their_most_detailed_window(training):
    large = {name: np.pad(image, ((0, 600), (700, 0), (0, 0))) for name, image in images().items()}
    write_sheet(training / "visualization" / "photos" / "a_300.png", lay_out(large))
    page = report(training)
    assert re.search(r"512 × 512 pixels from \(\d+, \d+\) on", page)
    assert {image["width"] for image in Structure(page).all("img")} == {"512"}


def test_a_test_run(training, tmp_path):
    folder = tmp_path / "results" / "tested"
    folder.mkdir(parents=True)
    options = {"name": "tested", "is_train": False, "network_g": {"type": "FFDNet"}, "path": {}, "val": {}}
    (folder / "options.yml").write_text(yaml.safe_dump(options))
    MetricsFile(folder / "metrics.csv").add(
        0, {"photos": (3, {"psnr": 28.0, "psnr_input": 20.0, "divergence": 0.00152})}
    )
    rows = [ImageRecord(key, {"psnr": psnr}, None) for key, psnr in (("a", 31.0), ("b", 25.0), ("c", 28.0))]
    write_records(folder / "by_image.csv", {"photos": rows}, [])
    for key in "abc":
        write_sheet(folder / "comparison" / "photos" / f"{key}.png", lay_out(images()))
    page = Structure(report(folder, count=1))
    assert page.said("p")[:2] == ["Test run", "FFDNet, weights: random"]
    assert "0.00152" in page.said("b")
    assert "PSNR of the input [dB]" in page.said("th")
    order = [text for text in page.said("th") if text in "abc"]
    assert order == ["b", "c", "a"]
    assert len([image for image in page.all("img") if image["alt"].startswith("b, photos, PSNR [dB]: 25.000")]) == 3


def test_logs_of_a_continued_run_make_one_curve(tmp_path):
    def write(time, values):
        lines = [
            f"2026-11-27 21:04:41,119 INFO: [a..][epoch:  0, iter: {s:7,d}, lr:(1e-3,)] l_x: {v} " for s, v in values
        ]
        (tmp_path / f"train_a_{time}.log").write_text("\n".join(lines))

    write("20261127_210000", [(1, 1.0), (2, 2.0), (3, 3.0)])
    write("20261127_220000", [(2, 2.5), (4, 4.5)])
    write("20261127_230000", [])
    assert read_steps(tmp_path).curves["l_x"] == {1: 1.0, 2: 2.5, 4: 4.5}


def test_a_log_that_is_cut_or_odd_gives_what_can_be_read(tmp_path):
    good = "".join(f"[a..][epoch:  0, iter: {step}, lr:(1e-3,)] l_x: {step}.5 \n" for step in (1, 2))
    odd = "[a][epoch: 0, iter: ,,, lr:(x,)] l_x: 1\n[a][epoch: 0, iter: 3, lr:()] l_x: 1e--4 \n\0\xff[epoch: 0, it"
    (tmp_path / "train_a_20261127_210000.log").write_bytes((good + odd).encode("latin-1"))
    curves = read_steps(tmp_path).curves
    assert {step: value for step, value in curves["l_x"].items() if step < 3} == {1: 1.5, 2: 2.5}


def test_worst_images_by_the_direction_of_the_metric():
    records = [ImageRecord(str(n), {"m": float(n)}, np.array([[n], [10]])) for n in range(9)]
    records.append(ImageRecord("empty", {}, np.array([[0], [0]])))
    assert [record.key for record in worst_images(records, "m", lower=False)] == list("01234")
    assert [record.key for record in worst_images(records, "m", lower=True)] == list("87654")
    assert [record.key for record in worst_images(records, "mIoU", lower=False)] == list("01234")


def suite(folder):
    """The report of a suite, as `d2sm compare` writes it."""
    folder.mkdir(parents=True)
    table = "|    | σ = 25 PSNR [dB] |\n|----|---|\n| L1 | 30.0 (2) |\n| A|<b> | **31.0** (1) |"
    text = f"# Suite & co\n\nMeans.\n\n{table}\n\nDifferences.\n\n{table}\n\nGroups.\n\n{table}\n\nTrained with a.\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    files = {
        "table_mean.csv": [
            ["variant", "rank", "difference", "baseline"],
            ["published", 1, "", ""],  # a network that is tested as it is
            ["L1", 2, "", ""],
            ["A|<b>", 1, 1.0, "L1"],
        ],
        "intervals.csv": [
            ["variant", "set", "sigma", "metric", "difference", "low", "high", "seeds", "frames", "blocks"],
            ["A|<b>", "s", "25", "psnr", "1.0", "-0.5", "2.0", 2, 4, 2],
        ],
        "images.csv": [
            ["variant", "set", "image", "metric", "better", "seeds", "mean", "difference"],
            ["L1", "s", "a", "psnr", "higher", 2, 30, ""],
            *(["A|<b>", "s", f"img{n}", "psnr", "higher", 2, 30 + n, n - 2] for n in range(8)),
            *(["A|<b>", "s", f"img{n}", "nrmse", "lower", 2, n, n - 2] for n in range(8)),
        ],
    }
    for name, rows in files.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    write_sheet(folder / "grid_a_25.png", lay_out({"input 20.00 dB": picture(50), **images()}))
    write_sheet(folder / "convergence.png", lay_out({"any": picture(0)}))
    return folder


def test_a_suite(tmp_path):
    page = Structure(report(suite(tmp_path / "s")))
    assert page.said("h1") == ["Suite & co"]
    assert page.said("h2") == ["Results", "Differences from L1", "Pictures", "Plots", "Failure cases"]
    assert "Trained with a." in page.said("p")
    assert "A|<b>" in page.said("th") and "31.0 (1)" in page.said("strong")
    assert page.said("b") == ["+1.000"] and "the interval holds 0" in page.said("small")[0]
    [drawing] = page.all("svg")
    assert "A|<b>: +1.000 [-0.500, +2.000]" in drawing["aria-label"]
    captions = page.said("caption")
    assert captions[:3] == ["Means.", "Differences.", "Groups."]
    assert not {"Differences.", "Groups."} & {*page.said("p")}
    assert captions[3] == "PSNR [dB] of A|<b> on s: worse than L1 on 2 of 8 images; the 5 worst"
    assert captions[4] == "NRMSE of A|<b> on s: worse than L1 on 5 of 8 images; the 5 worst"
    order = [text for text in page.said("th") if text.startswith("img")]
    assert order == [f"img{n}" for n in (0, 1, 2, 3, 4, 7, 6, 5, 4, 3)]
    assert len(page.all("img")) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.md", b"\xff", r"table\.md: it is damaged"),
        ("intervals.csv", b"variant,low\na,1,2\n", r"intervals\.csv: it is damaged .*lines differ"),
        ("images.csv", b"variant\na\n", r"images\.csv: it is damaged"),
        ("images.csv", b"variant,mean,difference\na,1,2\n", r"images\.csv: it is damaged .*no column better, image, m"),
        ("table_mean.csv", b"rank,difference\n1,2\n", r"table_mean\.csv: it is damaged .*no column variant"),
        (
            "intervals.csv",
            b"variant,set,sigma,metric,difference,low,high,seeds,frames,blocks\na,s,,psnr,1,0,2,x,1,1\n",
            r"intervals\.csv: it is damaged .*invalid literal for int",
        ),
    ],
)
def test_a_damaged_suite_is_one_line(tmp_path, name, content, message):
    (suite(tmp_path / "s") / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        report(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("options.yml", b"[1]", r"options\.yml"),
        ("options.yml", b"network_g: 3\nname: x", r"options\.yml: it is damaged"),
        ("options.yml", b"name: x\nnetwork_g: {type: F}\nval: {metrics: {psnr: {}}}", r"options\.yml: it is damaged"),
        ("options.yml", b"name: x\nnetwork_g: {type: F}\nval: {metrics: {psnr: ~}}", r"options\.yml: it is damaged"),
        ("metrics.csv", b"x,y", r"metrics\.csv: expected lines"),
        ("by_image.csv", b"x,y", r"by_image\.csv: expected a row"),
        ("visualization/photos/a_300.png", b"x", r"a_300\.png: it is no picture"),
    ],
)
def test_a_damaged_run_is_one_line(training, name, content, message):
    (training / name).write_bytes(content)
    with pytest.raises((DataError, OptionError), match=message):
        report(training)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"neither a run \(options\.yml\) nor the report of a suite"):
        main([str(tmp_path)])
    for name in ("absent", "x" * 300, "~nobody_of_that_name/x"):
        with pytest.raises(DataError, match="neither a run"):
            main([str(tmp_path / name) if name[0] != "~" else name])
    for name in ("x" * 300, "a\0b", "~nobody_of_that_name/x.html"):
        with pytest.raises(OptionError, match=r"^argument --out: .* cannot be the path of a file"):
            main([str(tmp_path), "--out", str(tmp_path / name) if name[0] != "~" else name])
