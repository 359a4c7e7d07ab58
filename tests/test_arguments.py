from __future__ import annotations

import importlib
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from d2sm_plugin.__main__ import COMMANDS
from d2sm_plugin.arguments import MAX_SEED, device, number, out_file, out_folder, whole
from d2sm_plugin.errors import OptionError


def test_whole_numbers():
    assert [whole()("0"), whole(1)("7"), whole(-3, 5)("-3"), whole(0, MAX_SEED)(str(MAX_SEED))] == [0, 7, -3, MAX_SEED]
    for kind, texts in ((whole(), ("-1", "x", "", "1.0", "1e3", "9" * 5000)), (whole(1, 4), ("0", "5"))):
        for text in texts:
            with pytest.raises(ArgumentTypeError, match="expected a whole number from") as caught:
                kind(text)
            assert len(str(caught.value)) < 200


def test_numbers():
    assert [number(0)("0"), number(0, 255, above=True)("1e-3"), number(0, 1)("1")] == [0, 1e-3, 1]
    for kind, texts in (
        (number(0), ("-1e-9", "nan", "inf", "1e999", "x", "")),
        (number(0, 255, above=True), ("0", "256", "-0")),
    ):
        for text in texts:
            with pytest.raises(ArgumentTypeError, match=r"expected a number (from|above) 0"):
                kind(text)


def test_devices():
    assert device("cpu") == "cpu" and device("auto") in ("cpu", "cuda")
    for text in ("foo", "cuda:99", "", "cpu:x", "meta", "x" * 9999):
        with pytest.raises(ArgumentTypeError) as caught:
            device(text)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_folders_and_files(tmp_path):
    (tmp_path / "file").write_text("")
    assert out_folder(str(tmp_path / "a/b")) == tmp_path / "a/b" and out_folder("") == Path()
    assert out_file(str(tmp_path / "a/b.png")) == tmp_path / "a/b.png" and out_file(str(tmp_path / "file"))
    for kind, texts in (
        (out_folder, (tmp_path / "file", tmp_path / "file/sub", "x" * 5000, "a\0b", "~nobody_at_all/x")),
        (out_file, (tmp_path, tmp_path / "file/x.png")),
    ):
        for text in texts:
            with pytest.raises(ArgumentTypeError):
                kind(str(text))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("benchmark", ["--device", "foo"]),
        ("benchmark", ["--threads", "0"]),
        ("benchmark", ["--repeats", "-1"]),
        ("tsne", ["--clean", "x", "--extractor", "x", "--out", "o", "--seed", "-1"]),
        ("tsne", ["--clean", "x", "--extractor", "x", "--out", "o", "--perplexity", "nan"]),
        ("divergence", ["--clean", "x", "--extractor", "x", "--group", "1"]),
        ("compare", ["suite", "--out", "FILE"]),
        ("compare", ["suite", "--jobs", "0"]),
        ("quality", ["--clean", "x", "--out", "FILE"]),
        ("seg-eval", ["--labels", "x", "--config", "x", "--checkpoint", "x", "--sigma", "0"]),
        ("faces", ["--clean", "x", "--landmarks", "x", "--points", "ibug68", "--alignment", "x", "--out", "FILE/sub"]),
        ("restore", ["-i", "x", "-o", "o", "-n", "FFDNet", "-c", "x", "--device", "cuda:99"]),
        ("prepare", ["folder", "--src", "x", "--out", "FILE"]),
        ("prepare", ["synthetic-haze", "--out", "o", "--seed", "-1"]),
        ("demo", ["--out", "FILE"]),
        ("demo", ["--iterations", "0"]),
        ("options", ["copy", "x", "--out", "FILE"]),
    ],
)
def test_arguments_are_refused_in_one_line(tmp_path, monkeypatch, command, arguments):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    with pytest.raises(OptionError, match=r"^argument .*--help says what there is$"):
        importlib.import_module(f"d2sm_plugin.{COMMANDS[command].module}").main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_help_of_the_parts_of_an_iteration(capsys):
    from d2sm_plugin.studies.benchmark.parts import main

    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0 and "--rounds" in capsys.readouterr().out
