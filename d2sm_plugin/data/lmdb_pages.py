"""Check of the pages of an LMDB before it is read.

LMDB maps its file into memory and trusts what it holds: a size or place that leads past the end of the file kills the
process. The layout is that of LMDB's data version 1 (``MDB_meta``, ``MDB_page`` and ``MDB_node`` in its ``mdb.c``).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEAD = struct.Struct("=QHHHH")  # of a page: number, padding, kind, end of the places of its nodes, start of the nodes
_NODE = struct.Struct("=4H")  # size of the value or number of the page below (the first three), size of the key
_BRANCH, _LEAF = 1, 2  # kinds of pages
_FAR, _DUPLICATES = 1, 4  # of a node in a leaf: its value has pages of its own; of nodes and trees: values of one key
_NO_PAGE = 2**64 - 1
_PAGE_SIZE, _TREE, _ROOT, _NUMBER = (24, "=I"), (76, "=H"), (112, "=Q"), (128, "=Q")  # in the description of the file


class _File(NamedTuple):
    file: BinaryIO
    page_size: int
    size: int


def damaged_page(path: str | Path) -> int | None:
    """Return the number of the first page of a ``data.mdb`` that leads out of the file, or None where there is none.

    Only the index is read, not the records.

    Args:
        path: of the file, which LMDB has opened, so that its first two pages describe it.
    """
    with open(path, "rb") as file:
        first = file.read(4096)[_HEAD.size :]
        page_size = _field(first, _PAGE_SIZE)
        file.seek(page_size + _HEAD.size)
        newest = max((first, file.read(4096)), key=lambda description: _field(description, _NUMBER))
        if _field(newest, _TREE) & _DUPLICATES:
            return 0
        root = _field(newest, _ROOT)
        return None if root == _NO_PAGE else _walk(_File(file, page_size, Path(path).stat().st_size), root)


def _walk(source: _File, root: int) -> int | None:
    most, visited, pending = source.size // source.page_size, 0, [root]
    while pending:
        number = pending.pop()
        visited += 1
        below = _pages_below(source, number) if number < most and visited <= most else None
        if below is None:
            return number
        pending += below
    return None


def _pages_below(source: _File, number: int) -> list[int] | None:
    """Return the pages that a page of the tree leads to; None when it is no such page, or leads out of the file."""
    source.file.seek(number * source.page_size)
    page = source.file.read(source.page_size)
    _, _, kind, end, start = _HEAD.unpack_from(page)
    if kind & ~0x10 not in (_BRANCH, _LEAF) or not _HEAD.size <= end <= start <= len(page):  # 0x10: once in use
        return None
    below: list[int] = []
    for place in struct.unpack_from(f"={(end - _HEAD.size) // 2}H", page, _HEAD.size):
        if place + _NODE.size > len(page):
            return None
        low, high, more, key = _NODE.unpack_from(page, place)
        inside, size = place + _NODE.size + key, low | high << 16
        if kind & _BRANCH:
            below.append(size | more << 32)
        elif more & _DUPLICATES or inside + (8 if more & _FAR else size) > len(page):
            return None
        elif more & _FAR:
            (first,) = struct.unpack_from("=Q", page, inside)
            if first * source.page_size + _HEAD.size + size > source.size:
                return None
        if inside > len(page):
            return None
    return below


def _field(description: bytes, field: tuple[int, str]) -> int:
    offset, kind = field
    return int(struct.unpack_from(kind, description, offset)[0])
