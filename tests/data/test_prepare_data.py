from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_samples import contents, image_folder, picture, write_png
from PIL import Image

from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.prepare.pictures import Windows
from d2sm_plugin.data.prepare.prepare_data import main
from d2sm_plugin.errors import DataError, OptionError

ROOT = Path(__file__).resolve().parents[2]


def prepare(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_folder_keeps_png_and_jpeg_bytes(tmp_path):
    source = image_folder(tmp_path / "photos", 3)
    (source / "sub").mkdir()
    cv2.imwrite(str(source / "sub/j.jpg"), picture(7))
    cv2.imwrite(str(source / "b.bmp"), picture(8)[..., ::-1])
    prepare("folder", "--src", source, "--out", tmp_path / "out", "--workers", 2, "--verify", "all")
    stored = contents(tmp_path / "out/photos.lmdb")
    assert sorted(stored) == ["b", "img_0", "img_1", "img_2", "sub/j"]
    assert stored["img_1"] == (source / "img_1.png").read_bytes()
    assert stored["sub/j"] == (source / "sub/j.jpg").read_bytes()
    assert stored["b"].startswith(b"\x89PNG")
    store = open_images(tmp_path / "out/photos.lmdb")
    assert np.array_equal(store.read_rgb("b"), picture(8))
    meta = (tmp_path / "out/photos.lmdb/meta_info.txt").read_text().splitlines()
    assert meta[0] == "b.png (40,56,3) 1" and meta[-1] == "sub/j.jpg (40,56,3) -1"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["photos.lmdb"]


def test_deep_and_alpha_png_become_eight_bit_rgb(tmp_path):
    (tmp_path / "src").mkdir()
    cv2.imwrite(str(tmp_path / "src/deep.png"), picture(0)[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "src/alpha.png"), cv2.cvtColor(picture(1), cv2.COLOR_RGB2BGRA))
    prepare("folder", "--src", tmp_path / "src", "--out", tmp_path, "--name", "x.lmdb")
    for key, data in contents(tmp_path / "x.lmdb").items():
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert array.dtype == np.uint8 and array.shape == (40, 56, 3), key


def test_phone_pictures_are_stored_as_they_are_shown(tmp_path):
    """Turned pictures, films behind the end marker, and types that BasicSR's readers may lack."""
    (tmp_path / "src").mkdir()
    picture_file = Image.fromarray(picture(3, (24, 40)))
    plain = io.BytesIO()
    picture_file.save(plain, "JPEG")
    (tmp_path / "src/film.jpg").write_bytes(plain.getvalue() + b"\0film\xff\xda\xff")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture_file.save(tmp_path / "src/turned.jpg", exif=exif)
    picture_file.save(tmp_path / "src/web.webp", lossless=True)
    picture_file.save(tmp_path / "src/old.jfif", "JPEG")
    picture_file.convert("CMYK").save(tmp_path / "src/print.jpg")
    prepare("folder", "--src", tmp_path / "src", "--out", tmp_path, "--name", "x", "--verify", "all")
    stored, source = contents(tmp_path / "x.lmdb"), open_images(tmp_path / "src")
    assert sorted(stored) == ["film", "old", "print", "turned", "web"]
    assert stored["film"] == plain.getvalue() == stored["old"]
    for key, data in stored.items():  # as BasicSR reads them, whether its OpenCV turns pictures or not
        for flag in (cv2.IMREAD_COLOR, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)[..., ::-1]
            assert np.array_equal(pixels, source.read_rgb(key)), key
    assert open_images(tmp_path / "x.lmdb").size("turned") == (40, 24)


def test_folder_cut_into_windows(tmp_path):
    source = image_folder(tmp_path / "photos", 1, size=(50, 70))
    prepare("folder", "--src", source, "--out", tmp_path, "--crop-size", 32, "--step", 20)
    store = open_images(tmp_path / "photos.lmdb")
    starts = [(top, left) for top in (0, 18) for left in (0, 20, 38)]
    assert store.keys == [f"img_0_s{number:03d}" for number in range(1, 7)]
    for key, (top, left) in zip(store.keys, starts, strict=True):
        assert np.array_equal(store.read_rgb(key), picture(0, (50, 70))[top : top + 32, left : left + 32])


@pytest.mark.parametrize(("length", "size", "step"), [(100, 100, 7), (101, 100, 100), (97, 20, 20), (64, 16, 24)])
def test_windows_lie_within_the_image_and_reach_its_ends(length, size, step):
    starts = Windows(size, step)._starts(length)
    assert starts[0] == 0 and starts[-1] == length - size
    assert starts == sorted(set(starts)) and np.diff(starts).max(initial=0) <= step


def test_second_run_leaves_a_whole_lmdb_alone_and_refuses_another_one(tmp_path):
    source = image_folder(tmp_path / "photos", 3)
    prepare("folder", "--src", source, "--out", tmp_path / "out")
    before = (tmp_path / "out/photos.lmdb/data.mdb").stat().st_mtime_ns
    prepare("folder", "--src", source, "--out", tmp_path / "out")
    assert (tmp_path / "out/photos.lmdb/data.mdb").stat().st_mtime_ns == before
    write_png(source / "new.png", picture(9))
    with pytest.raises(DataError, match=r"photos.lmdb: it exists already; say --overwrite"):
        prepare("folder", "--src", source, "--out", tmp_path / "out")
    assert (tmp_path / "out/photos.lmdb/data.mdb").stat().st_mtime_ns == before
    prepare("folder", "--src", source, "--out", tmp_path / "out", "--overwrite")
    assert "new" in open_images(tmp_path / "out/photos.lmdb")


SLOW_MAIN = """
import sys, time
from d2sm_plugin.data import lmdb_writer
from d2sm_plugin.data.prepare import folder
from d2sm_plugin.data.prepare.prepare_data import main
lmdb_writer._COMMIT_BYTES = 1
make_job = folder.image_job
def slow_job(*arguments):
    job = make_job(*arguments)
    def make():
        time.sleep(0.05)
        return job.make()
    return type(job)(job.identity, make)
folder.image_job = slow_job
main(sys.argv[1:])
"""


def test_killed_and_given_again(tmp_path):
    source = image_folder(tmp_path / "photos", 200, size=(16, 16))
    arguments = ["folder", "--src", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MAIN, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    partial = tmp_path / "out/photos.lmdb.partial"
    try:
        progress = partial / "progress.jsonl"
        deadline = time.monotonic() + 120
        while not progress.is_file() or progress.read_bytes().count(b"\n") < 10:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    done = (partial / "progress.jsonl").read_bytes().count(b"\n")
    assert 10 <= done < 200 and not (tmp_path / "out/photos.lmdb").exists()
    prepare(*arguments)
    prepare("folder", "--src", source, "--out", tmp_path / "whole")
    assert contents(tmp_path / "out/photos.lmdb") == contents(tmp_path / "whole/photos.lmdb")
    for name in ("meta_info.txt", "prepared_from.json"):
        assert (tmp_path / "out/photos.lmdb" / name).read_bytes() == (
            tmp_path / "whole/photos.lmdb" / name
        ).read_bytes()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["photos.lmdb"]


def test_damaged_source_is_named_and_what_was_done_is_kept(tmp_path):
    source = image_folder(tmp_path / "photos", 8)
    good = (source / "img_6.png").read_bytes()
    (source / "img_6.png").write_bytes(good[:100])
    with pytest.raises(DataError, match=r"photos/img_6.png: it does not decode"):
        prepare("folder", "--src", source, "--out", tmp_path / "out", "--workers", 1)
    assert not (tmp_path / "out/photos.lmdb").exists()
    progress = (tmp_path / "out/photos.lmdb.partial/progress.jsonl").read_text()
    assert progress.count("\n") == 6
    (source / "img_6.png").write_bytes(good)
    prepare("folder", "--src", source, "--out", tmp_path / "out")
    assert len(open_images(tmp_path / "out/photos.lmdb")) == 8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--src", "nowhere"], DataError, "nowhere: no such folder; --src names"),
        (["--src", "."], DataError, "it holds no image"),
        (["--src", "photos", "--step", "4"], OptionError, "--step: it needs --crop-size"),
        (["--src", "photos", "--crop-size", "64"], DataError, r"img_0.png: the image is 56x40 .* window of 64; lower"),
    ],
)
def test_folder_errors(tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "photos", 2)
    if arguments[1] == ".":
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(error, match=message):
        prepare("folder", "--out", tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    "arguments", [[], ["folder"], ["folder", "--src", "a", "--out", "b", "--workers", "0"], ["video", "--out", "b"]]
)
def test_usage_errors(arguments):
    with pytest.raises(OptionError, match="--help says what there is"):
        main(arguments)


@pytest.mark.parametrize("subcommand", ["folder", "cityscapes", "camvid", "demo"])
def test_help(subcommand, capsys):
    with pytest.raises(SystemExit) as stop:
        main([subcommand, "--help"])
    assert stop.value.code == 0 and "--overwrite" in capsys.readouterr().out
