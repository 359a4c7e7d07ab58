"""MATLAB's files of version 5, which SciPy reads, held against their checksum first."""

from __future__ import annotations

import zlib
from pathlib import Path

#: What follows the text of a file's head: version, byte order, and a compressed element.
_COMPRESSED = b"\x00\x01IM\x0f\x00\x00\x00"


def whole_content(file: Path, most_bytes: int) -> bytes:
    """Return a file's content once its checksum is right, since SciPy can crash on a damaged one.

    Args:
        file: with one compressed element, as MATLAB writes one variable.
        most_bytes: that the element may unpack to.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is damaged, cut off, of another version or larger.
        zlib.error: when it is damaged.
    """
    content = file.read_bytes()
    head, size, packed = content[124:132], content[132:136], content[136:]
    if head != _COMPRESSED or int.from_bytes(size, "little") != len(packed):
        raise ValueError("no compressed MATLAB file of version 5, or not the whole of it")
    unpacked = zlib.decompressobj()
    if len(unpacked.decompress(packed, most_bytes + 1)) > most_bytes:
        raise ValueError(f"it unpacks to more than {most_bytes >> 20} MiB")
    if not unpacked.eof:
        raise ValueError("its content ends early")
    return content
