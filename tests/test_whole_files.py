from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2sm_plugin.errors import CheckpointError, DataError
from d2sm_plugin.files import link_whole, regular, remove_partial_files, whole_file, write_csv, write_json, write_whole


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_folders_are_made_and_an_older_file_is_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    for text in ("older, and longer", "ä\r\n"):
        write_whole(path, text)
    assert path.read_bytes() == "ä\r\n".encode()
    write_json(path, {"x": [1]})
    assert path.read_text() == '{\n  "x": [\n    1\n  ]\n}\n'
    write_csv(path, ["a", "b"], [[1, None], ["x, y", 0.1]])
    assert path.read_bytes() == b'a,b\r\n1,\r\n"x, y",0.1\r\n'
    assert names(path.parent) == ["text.txt"]


@pytest.mark.parametrize("size", [4097, 100_000], ids=["while closing", "while writing"])
def test_a_full_disk_leaves_the_older_file_and_says_what_to_do(tmp_path, full_disk, size):
    path = tmp_path / "a.bin"
    write_whole(path, b"older")
    with (
        full_disk(),
        pytest.raises(DataError, match=r"a\.bin: cannot be written \(.*; \d+ MiB free\); free some space"),
    ):
        write_whole(path, bytes(size))
    with full_disk(), pytest.raises(CheckpointError, match=r"MiB free\); do as you were told$"):  # noqa: SIM117
        with whole_file(path, CheckpointError, "do as you were told") as file:
            file.write(bytes(size))
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_any_other_end_of_the_block_leaves_the_older_file_too(tmp_path, error):
    write_whole(tmp_path / "a", "older")
    with pytest.raises(error), whole_file(tmp_path / "a") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "a").read_text() == "older"
    assert names(tmp_path) == ["a"]


def test_what_stands_in_the_way_is_named(tmp_path):
    write_whole(tmp_path / "file", "x")
    (tmp_path / "folder").mkdir()
    for path, remedy in ((tmp_path / "file" / "x", "choose another folder"), (tmp_path / "folder", "another name")):
        with pytest.raises(DataError, match=f"{path}: cannot be written .*{remedy}"):
            write_whole(path, "x")
    with pytest.raises(DataError, match="choose a shorter name"):
        write_whole(tmp_path / ("x" * 256), "x")


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127], ids=["ascii", "utf-8"])
def test_the_longest_name_that_the_file_system_takes(tmp_path, name):
    write_whole(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        write_whole(tmp_path / "pipe", "through")
        assert reader.communicate(timeout=60)[0] == "through"
    assert (tmp_path / "pipe").is_fifo()


def test_a_second_name_replaces_what_had_it(tmp_path):
    for text in ("first", "second"):
        write_whole(tmp_path / text, text)
        link_whole(tmp_path / text, tmp_path / "latest")
        assert (tmp_path / "latest").read_text() == text
    link_whole(tmp_path / "second", tmp_path / "latest")  # both are one file already
    assert names(tmp_path) == ["first", "latest", "second"]
    with pytest.raises(CheckpointError, match="latest: cannot be written"):
        link_whole(tmp_path / "missing", tmp_path / "latest", CheckpointError)
    assert (tmp_path / "latest").read_text() == "second"


def test_what_a_killed_process_leaves_is_hidden_and_removed(tmp_path):
    program = (
        "import os, signal\nfrom d2sm_plugin.files import whole_file\n"
        f"with whole_file({str(tmp_path / 'a.pth')!r}) as file:\n"
        "    file.write(b'half')\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[1], timeout=120)
    (left,) = names(tmp_path)
    assert left.startswith(".a.pth.")
    assert left.endswith(".partial")
    (tmp_path / "b.partial").touch()  # of somebody else
    remove_partial_files(tmp_path.parent)
    assert names(tmp_path) == ["b.partial"]


def test_what_has_no_end_is_no_file_to_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="it is a pipe or a device; give a file"):
            regular(path)
    write_whole(tmp_path / "a", "x")
    assert regular(tmp_path / "a").read_text() == "x"
    assert regular(tmp_path / "gone") == tmp_path / "gone"  # opening it says so
