from __future__ import annotations

import os
import shutil

import lmdb
import pytest
from data_samples import contents, image_store, picture
from filelock import FileLock

from d2sm_plugin.data import lmdb_writer
from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.lmdb_progress import PROGRESS_FILE, Record, read_origin
from d2sm_plugin.data.lmdb_store import LmdbReader
from d2sm_plugin.data.lmdb_writer import LmdbWriter
from d2sm_plugin.errors import DataError


def record(number: int, data: bytes | None = None) -> Record:
    return Record(f"k{number:03d}", data or encode_png(picture(number), 1), (40, 56, 3), ".png", 1)


def write(path, numbers, overwrite=False, finish=True, fail_after=None):
    """Write records, each an item of its own; returns what was reused."""
    with LmdbWriter(path, overwrite) as writer:
        reused = writer.reuse([f"item{number}" for number in numbers])
        for count, number in enumerate(numbers):
            if fail_after is not None and count >= fail_after:
                raise KeyboardInterrupt
            if f"item{number}" not in reused:
                writer.put(f"item{number}", [record(number)])
        if finish:
            writer.finish("digest")
    return reused


def test_layout_and_meta_info(tmp_path):
    path = tmp_path / "a.lmdb"
    write(path, range(3))
    assert {"data.mdb", "lock.mdb", "meta_info.txt"} < {file.name for file in path.iterdir()}
    assert not (path / PROGRESS_FILE).exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lmdb"]  # no partial, no lock left
    assert (path / "meta_info.txt").read_text().splitlines() == [f"k{n:03d}.png (40,56,3) 1" for n in range(3)]
    assert contents(path) == {record(n).key: record(n).data for n in range(3)}
    assert read_origin(path) == "digest"


def test_nothing_has_the_final_name_before_it_is_whole(tmp_path):
    path = tmp_path / "a.lmdb"
    with pytest.raises(KeyboardInterrupt):
        write(path, range(6), fail_after=4)
    assert not path.exists() and (tmp_path / "a.lmdb.partial").is_dir()


def test_interrupted_run_goes_on_and_equals_an_uninterrupted_one(tmp_path):
    path, whole = tmp_path / "a.lmdb", tmp_path / "b.lmdb"
    with pytest.raises(KeyboardInterrupt):
        write(path, range(10), fail_after=6)
    assert write(path, range(10)) == {f"item{number}" for number in range(6)}
    write(whole, range(10))
    assert contents(path) == contents(whole)
    assert (path / "meta_info.txt").read_bytes() == (whole / "meta_info.txt").read_bytes()


def test_records_that_are_damaged_or_not_wanted_any_more_are_dropped(tmp_path):
    path = tmp_path / "a.lmdb"
    write(path, range(6), finish=False)
    partial = tmp_path / "a.lmdb.partial"
    environment = lmdb.open(str(partial), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"k002", b"rubbish")
        transaction.put(b"stray", b"rubbish")
    environment.close()
    with open(partial / PROGRESS_FILE, "a") as file:
        file.write('{"item": "item9", "rec')  # killed in the middle of a line
    assert write(path, range(1, 6)) == {"item1", "item3", "item4", "item5"}
    assert contents(path) == {record(n).key: record(n).data for n in range(1, 6)}


@pytest.mark.parametrize("size", [0, 100, 8192])
def test_useless_partial_is_started_anew(tmp_path, size):
    path = tmp_path / "a.lmdb"
    write(path, range(6), finish=False)
    os.truncate(tmp_path / "a.lmdb.partial/data.mdb", size)
    assert write(path, range(6)) == set()
    assert len(contents(path)) == 6


def test_refuses_to_overwrite_unless_told(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    before = (path / "data.mdb").read_bytes()
    with pytest.raises(DataError, match=r"a\.lmdb: it exists already; say --overwrite"):
        LmdbWriter(path)
    assert (path / "data.mdb").read_bytes() == before
    reader = LmdbReader(path)
    assert "img_0" in reader
    write(path, range(2), overwrite=True)
    assert reader.get("k001") == record(1).data  # an open reader follows
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lmdb"]


def test_overwriting_leaves_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    with pytest.raises(KeyboardInterrupt):
        write(path, range(4), overwrite=True, fail_after=2)
    assert len(open_images(path)) == 5


def test_failed_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    path = image_store(tmp_path / "a.lmdb")
    rename = type(path).rename

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", failing)
    with pytest.raises(DataError, match="cannot be put in place"):
        write(path, range(2), overwrite=True)
    monkeypatch.undo()
    assert len(open_images(path)) == 5
    assert write(path, range(2), overwrite=True) == {"item0", "item1"}


def test_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP_SIZE", 1 << 16)
    monkeypatch.setattr(lmdb_writer, "_COMMIT_BYTES", 1)
    path = tmp_path / "a.lmdb"
    data = os.urandom(50_000)
    with LmdbWriter(path) as writer:
        writer.reuse([])
        for number in range(20):
            writer.put(str(number), [record(number), record(100 + number)])
        writer.put("large", [Record("noise", encode_png(picture(0, (300, 300)), 0) + data, (300, 300, 3))])
        assert writer.finish("x") == 41
    assert len(contents(path)) == 41


class FullDisk:
    """An environment whose commits fail from some moment on."""

    def __init__(self, environment, error, writes):
        self._environment, self._error, self._left = environment, error, writes

    def begin(self, write=False):
        if write:
            self._left -= 1
            if self._left < 0:
                raise self._error
        return self._environment.begin(write=write)

    def __getattr__(self, name):
        return getattr(self._environment, name)


@pytest.mark.parametrize("error", [lmdb.DiskError("full"), OSError(28, "No space left on device")])
def test_full_disk_keeps_what_is_there(tmp_path, monkeypatch, error):
    monkeypatch.setattr(lmdb_writer, "_COMMIT_BYTES", 1)
    path = tmp_path / "a.lmdb"
    message = r"a.lmdb.partial: cannot be written \(the disk is full\).*same command"
    with pytest.raises(DataError, match=message), LmdbWriter(path) as writer:
        writer._environment = FullDisk(writer._environment, error, writes=5)  # one for reuse, four for records
        writer.reuse([])
        for number in range(10):
            writer.put(f"item{number}", [record(number)])
    assert not path.exists()
    assert len(write(path, range(10))) == 4
    assert len(contents(path)) == 10


def test_full_disk_for_real(tmp_path):
    """On a file system of 1 MiB, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or os.system(f"mount -t tmpfs -o size=1m none {disk} 2>/dev/null") != 0:
        pytest.skip("no right to mount")
    try:
        with pytest.raises(DataError, match="the disk is full"), LmdbWriter(disk / "a.lmdb") as writer:
            writer.reuse([])
            for number in range(40):
                writer.put(f"item{number}", [record(number, os.urandom(100_000))])
                writer._flush()
        assert not (disk / "a.lmdb").exists() and (disk / "a.lmdb.partial").is_dir()
    finally:
        os.system(f"umount {disk}")


def test_reading_back_is_checked(tmp_path):
    path = tmp_path / "a.lmdb"
    wrong_shape = Record("a", encode_png(picture(0), 1), (41, 56, 3))
    with pytest.raises(DataError, match=r"'a' decodes to another size than \(41, 56, 3\)"), LmdbWriter(path) as writer:
        writer.reuse([])
        writer.put("a", [wrong_shape])
        writer.finish("x")
    with pytest.raises(DataError, match="'b': it does not decode"), LmdbWriter(path) as writer:
        writer.reuse([])
        writer.put("b", [Record("b", b"no image", (1, 1, 3))])
        writer.finish("x", verify_all=True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "records", "message"),
    [
        ("a", [record(0)], "must end with .lmdb"),
        ("a.lmdb", [], "there is nothing to write"),
        ("a.lmdb", [record(0), record(0)], "two images would have the key 'k000'"),
        ("a.lmdb", [Record("k" * 600, b"x", (1, 1, 3))], "a key has 1 to 511 bytes"),
    ],
)
def test_refusals(tmp_path, name, records, message):
    with pytest.raises(DataError, match=message), LmdbWriter(tmp_path / name) as writer:
        writer.reuse([])
        for entry in records:
            writer.put(entry.key, [entry])
        writer.finish("x")


def test_one_writer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "_LOCK_SECONDS", 0.1)
    with FileLock(tmp_path / "a.lmdb.lock"), pytest.raises(DataError, match="another process is writing it"):
        write(tmp_path / "a.lmdb", range(2))


def test_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a.lmdb.partial: cannot be written"):
        write(tmp_path / "file/a.lmdb", range(2))


def test_what_others_left_under_neighbouring_names_is_never_touched(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    for name in ("a.lmdb.old", "a.lmdb.bak", "a.lmdb.replaced", ".a.lmdb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("kept")
    shutil.copytree(path, tmp_path / "a.lmdb.old" / "copy.lmdb")
    write(path, range(2), overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".a.lmdb",
        "a.lmdb",
        "a.lmdb.bak",
        "a.lmdb.old",
        "a.lmdb.replaced",
    ]
    assert all((tmp_path / name / "mine").read_text() == "kept" for name in ("a.lmdb.old", ".a.lmdb"))
    assert len(open_images(tmp_path / "a.lmdb.old" / "copy.lmdb")) == 5


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    path.rename(tmp_path / ".a.lmdb.123.replaced")
    write(path, range(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lmdb"]


def test_folders_that_are_not_ours_are_refused(tmp_path):
    for name in ("a.lmdb", "b.lmdb.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "holiday.jpg").write_text("kept")
    image_store(tmp_path / "c.lmdb").rename(tmp_path / "c.lmdb.partial")
    for name, message in (
        ("a", r"a.lmdb: it is no LMDB, so it is not replaced"),
        ("b", r"b.lmdb.partial: it holds 'holiday.jpg', so it is no unfinished LMDB of ours"),
        ("c", r"c.lmdb.partial: its records are not those of an interrupted run"),
    ):
        with pytest.raises(DataError, match=message):
            write(tmp_path / f"{name}.lmdb", range(2), overwrite=True)
    assert (tmp_path / "a.lmdb/holiday.jpg").exists() and (tmp_path / "b.lmdb.partial/holiday.jpg").exists()
    assert len(contents(tmp_path / "c.lmdb.partial")) == 5


def test_a_disk_without_room_for_the_lock_file_is_an_error_and_no_bus_error(tmp_path, full_disk):
    """lmdb maps its lock file into memory; a page of it that the disk cannot take would kill the process."""
    with full_disk(), pytest.raises(DataError, match=r"a\.lmdb\.partial: cannot be written"):  # noqa: SIM117
        with LmdbWriter(tmp_path / "a.lmdb"):
            pass
