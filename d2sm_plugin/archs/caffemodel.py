"""Weights out of a Caffe snapshot (``*.caffemodel``), without Caffe.

The file is a protocol buffer, a ``NetParameter`` of ``caffe.proto``: field 100 holds the layers. Of a layer, field 1 is
the name and field 7 the blobs; of a blob, field 5 holds the values and field 7 the shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.weight_files import local_file

#: Kinds of a protocol buffer's fields, and the bytes that those of fixed length take.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
#: A varint holds 7 bits in each byte, 64 at the most.
_LONGEST_VARINT = 10
_BLOB_NAMES = ("weight", "bias")


def read_caffemodel(source: str | Path) -> dict[str, Tensor]:
    """Return the weights and biases of a Caffe snapshot as ``LAYER.weight`` and ``LAYER.bias``, float32.

    Convolutions and deconvolutions have the layouts of torch's ``Conv2d`` and ``ConvTranspose2d``. Layers without
    blobs are left out.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds no weights.
    """
    path = local_file(source)
    try:
        tensors = dict(_tensors(memoryview(path.read_bytes())))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: it is no Caffe snapshot, or damaged ({error}); download it again") from error
    if not tensors:
        raise CheckpointError(f"{path}: it holds no layers with weights; expected a Caffe snapshot (NetParameter)")
    return tensors


def _tensors(content: memoryview) -> Iterator[tuple[str, Tensor]]:
    for layer in _messages(content, 100):
        name = b"".join(_messages(layer, 1)).decode()
        blobs = list(_messages(layer, 7))
        if len(blobs) > len(_BLOB_NAMES):
            raise ValueError(f"layer '{name}' has {len(blobs)} blobs, expected weight and bias")
        for kind, blob in zip(_BLOB_NAMES, blobs, strict=False):
            yield f"{name}.{kind}", _blob(blob, f"{name}.{kind}")


def _blob(blob: memoryview, name: str) -> Tensor:
    values = bytearray(b"".join(_messages(blob, 5)))
    shape = [size for dims in _messages(blob, 7) for packed in _messages(dims, 1) for size in _varints(packed)]
    if not values or 4 * math.prod(shape) != len(values):
        raise ValueError(f"'{name}' has {len(values)} bytes for a shape of {shape}")
    return torch.frombuffer(values, dtype=torch.float32).reshape(shape)


def _messages(content: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the bytes of every field of the wanted number; the kind of these fields is that of packed values."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, position = _varint(content, position)
            continue
        if kind == _BYTES:
            length, position = _varint(content, position)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if position + length > len(content):
            raise ValueError(f"field {number} ends {position + length - len(content)} bytes behind its end")
        if number == wanted:
            yield content[position : position + length]
        position += length


def _varints(content: memoryview) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the number that starts at a position, and the position behind it."""
    value = 0
    for shift, byte in enumerate(content[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("a number without an end")
