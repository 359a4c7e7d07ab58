from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
import struct
import threading

import lmdb
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from data_samples import contents, image_folder, image_store, picture, raw_store, read_in_child, write_store
from torch.utils.data import DataLoader

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data import lmdb_store
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.lmdb_pages import damaged_page
from d2sm_plugin.data.lmdb_store import LmdbReader, SharedLmdbBackend, close_environment, read_meta_info
from d2sm_plugin.errors import DataError, OptionError


def test_round_trip_keeps_the_bytes(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    reader = LmdbReader(path)
    raw = contents_while_open(path)
    assert reader.keys() == sorted(raw) and len(reader) == 5
    for key, data in raw.items():
        assert key in reader
        assert reader.get(key) == data


def contents_while_open(path):
    """lmdb opens no environment twice, so compare against a copy."""
    copy = path.with_name("copy_" + path.name)
    shutil.copytree(path, copy)
    return contents(copy)


def test_two_readers_share_one_environment(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    link = tmp_path / "link.lmdb"
    link.symlink_to(path)
    readers = [LmdbReader(path), LmdbReader(str(path) + "/"), LmdbReader(link)]
    assert len({reader.get("img_1") for reader in readers}) == 1
    assert sum(os.path.realpath(path) == name for name in lmdb_store._opened) == 1
    with pytest.raises(lmdb.Error, match="already open"):  # what would happen without
        lmdb.open(str(path), readonly=True, lock=False)


def test_reader_pickles(tmp_path):
    reader = LmdbReader(image_store(tmp_path / "a.lmdb"))
    assert pickle.loads(pickle.dumps(reader)).get("img_2") == reader.get("img_2")


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_reader_in_a_child_process(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    reader = LmdbReader(image_store(tmp_path / "a.lmdb"))
    expected = reader.get("img_3")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(reader, queue))
    child.start()
    assert queue.get(timeout=120) == (expected, expected)
    child.join()
    assert child.exitcode == 0
    assert reader.get("img_3") == expected  # the parent's own is untouched


def test_many_threads(tmp_path):
    reader = LmdbReader(image_store(tmp_path / "a.lmdb"))
    expected = [reader.get(f"img_{number}") for number in range(5)]
    lmdb_store.close_environment(reader.path)
    wrong = []

    def work():
        for turn in range(200):
            if reader.get(f"img_{turn % 5}") != expected[turn % 5]:
                wrong.append(turn)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_replaced_lmdb_is_read_anew(tmp_path):
    path = image_store(tmp_path / "a.lmdb", count=2)
    assert len(LmdbReader(path)) == 2
    shutil.rmtree(path)
    image_store(tmp_path / "b.lmdb", count=3).rename(path)
    assert len(LmdbReader(path)) == 3


def _cut(path, size):
    os.truncate(path / "data.mdb", size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such LMDB folder"),
        (lambda path: (path / "data.mdb").unlink(), "holds no data.mdb"),
        (lambda path: _cut(path, 0), r"data.mdb is empty \(0 bytes\)"),
        (lambda path: _cut(path, 100), "cannot be opened as an LMDB"),
        (lambda path: _cut(path, 8192), "data.mdb is truncated"),
        (lambda path: _cut(path, (path / "data.mdb").stat().st_size - 4096), "4096 are missing"),
        (lambda path: (path / "data.mdb").write_bytes(b"nonsense" * 4096), "cannot be opened as an LMDB"),
        (lambda path: (path / "meta_info.txt").unlink(), "meta_info.txt is missing"),
        (lambda path: (path / "meta_info.txt").write_text(""), "names no records"),
        (lambda path: (path / "meta_info.txt").write_text("img_0\n"), "line 1: expected 'NAME.png"),
        (lambda path: (path / "meta_info.txt").write_text("a.png (1,2,3) 1\na.jpg (1,2,3) 1"), "'a' is named twice"),
        (lambda path: (path / "meta_info.txt").write_text("a.png (1,2,3) 1\n"), "names 1 records, data.mdb holds 5"),
    ],
)
def test_damaged_lmdbs(tmp_path, damage, message):
    path = image_store(tmp_path / "a.lmdb")
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        open_images(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_index(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    reader = LmdbReader(path)
    key = reader.keys()[0]
    close_environment(path)
    data = bytearray((path / "data.mdb").read_bytes())
    for page in range(2, len(data) // 4096):  # behind the two that describe the file
        if struct.unpack_from("<H", data, 4096 * page + 10)[0] & 2:
            struct.pack_into("<H", data, 4096 * page + 10, 4)  # no leaf of the tree any more
    (path / "data.mdb").write_bytes(data)
    for read in (reader.keys, lambda: reader.get(key)):
        with pytest.raises(DataError, match=r"data\.mdb is damaged \(page \d+\); prepare it again"):
            read()


def test_no_damage_to_the_index_kills_the_process(tmp_path):
    """Whatever is written over a page, records are read or refused; lmdb itself would read past the end of the file."""
    path = image_store(tmp_path / "a.lmdb", count=60)
    assert damaged_page(path / "data.mdb") is None
    whole = (path / "data.mdb").read_bytes()
    tree = [4096 * page for page in range(2, len(whole) // 4096) if whole[4096 * page + 10] & 3]
    assert len(tree) >= 1
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if refusals(path, whole, tree) > 5 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refusals(path, whole: bytes, pages: list[int]) -> int:
    """Of 400 damaged ones, how many are refused when they are opened or read."""
    chance, refused = random.Random(0), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 5])):
            data[chance.choice(pages) + chance.choice([chance.randrange(160), chance.randrange(4096)])] ^= 64
        (path / "data.mdb").unlink()
        (path / "data.mdb").write_bytes(data)
        try:
            reader = LmdbReader(path)
            for key in [*reader.keys()]:
                reader.get(key)
        except DataError:
            refused += 1
    return refused


def test_an_lmdb_without_records(tmp_path):
    path = raw_store(tmp_path / "a.lmdb", {}, "")
    with pytest.raises(DataError, match="holds no records"):
        LmdbReader(path)


def test_missing_record(tmp_path):
    path = image_store(tmp_path / "a.lmdb")
    with pytest.raises(DataError, match=r"no record 'imh_1' \(it holds 5\); did you mean 'img_1'"):
        LmdbReader(path).get("imh_1")
    assert "k" * 1000 not in LmdbReader(path)
    assert "" not in LmdbReader(path)


def test_meta_info(tmp_path):
    image_store(tmp_path / "a.lmdb", count=1)
    (tmp_path / "a.lmdb/meta_info.txt").write_text("dir/with space.v1.png (40,56,3) 1\nlabel.png (40,56) 3\n")
    meta = read_meta_info(tmp_path / "a.lmdb")
    assert list(meta) == ["dir/with space.v1", "label"]
    assert meta["dir/with space.v1"].shape == (40, 56, 3) and meta["label"].level == 3


def test_lmdb_made_by_the_host(tmp_path):
    image_folder(tmp_path / "images")
    names = sorted(file.name for file in (tmp_path / "images").iterdir())
    make_lmdb_from_imgs(str(tmp_path / "images"), str(tmp_path / "a.lmdb"), names, [name[:-4] for name in names])
    store = open_images(tmp_path / "a.lmdb")
    assert store.keys == [name[:-4] for name in names]
    assert store.size("img_0") == (40, 56)
    assert np.array_equal(store.read_rgb("img_3"), picture(3))


def _paired_options(path, phase):
    options = {"phase": phase, "scale": 1, "dataroot_gt": str(path), "dataroot_lq": str(path), "gt_size": 16}
    return options | {"io_backend": {"type": "lmdb"}, "use_hflip": True, "use_rot": True}


def test_host_dataset_with_two_phases_on_one_lmdb(tmp_path):
    """BasicSR opens an environment for each path and phase, which lmdb refuses; here all of them are one."""
    path = image_store(tmp_path / "a.lmdb")
    train = PairedImageDataset(_paired_options(path, "train"))
    val = PairedImageDataset(_paired_options(path, "val"))
    for index in range(5):
        assert train[index]["gt"].shape == (3, 16, 16)
        expected = picture(index).transpose(2, 0, 1) / 255
        assert np.allclose(val[index]["gt"].numpy(), expected, atol=1e-6)
    for workers in (0, 2):
        loader = DataLoader(val, batch_size=1, num_workers=workers)
        assert [batch["gt_path"][0] for batch in loader] == [f"img_{number}" for number in range(5)]


def test_host_reads_what_the_writer_wrote_and_knows_the_backend(tmp_path):
    path = write_store(tmp_path / "a.lmdb", {"x": picture(1)})
    client = FileClient("lmdb", db_paths=[str(path)], client_keys=["lq"], readahead=True)
    assert isinstance(client.client, SharedLmdbBackend)
    assert client.get("x", "lq") == LmdbReader(path).get("x")
    with pytest.raises(OptionError, match="no LMDB is known as 'gt'"):
        client.get("x", "gt")


def test_backend_reads_text(tmp_path):
    path = raw_store(tmp_path / "a.lmdb", {"note": "größe".encode()}, None)
    assert SharedLmdbBackend(str(path)).get_text("note") == "größe"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client_keys": ["lq", "gt"]}, "1 db_paths for 2 client_keys"),
        ({"readonly": False}, "datasets only read"),
    ],
)
def test_backend_refuses(tmp_path, arguments, message):
    path = image_store(tmp_path / "a.lmdb", count=1)
    with pytest.raises(OptionError, match=message):
        SharedLmdbBackend(str(path), **arguments)
