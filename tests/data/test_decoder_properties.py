"""Whatever bytes the decoder is given: an image of the size that the head declares, or a DataError."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis")
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2sm_plugin.data.decoding import decode_label, decode_rgb
from d2sm_plugin.data.keys import check_key
from d2sm_plugin.data.picture_head import TYPES, jpeg_end, open_picture
from d2sm_plugin.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
KINDS = sorted(set(TYPES.values()))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


SOUND = {kind: encoded(kind) for kind in KINDS}
STARTS = st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF....WEBP"])
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8)


def decodes_or_refuses(data: bytes) -> None:
    """An image as large as its head says, or an error that names the source in one line."""
    for decode, channels in ((decode_rgb, (3,)), (decode_label, ())):
        try:
            pixels = decode(data, "some/file")
        except DataError as error:
            assert str(error).startswith("some/file: ") and len(str(error)) < 1000
            continue
        with open_picture(data, "some/file") as (_, head):
            assert pixels.shape == (head.height, head.width, *channels)
        assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]


@settings(deadline=None, max_examples=200)
@given(STARTS, st.binary(max_size=200))
def test_any_bytes(start, rest):
    decodes_or_refuses(start + rest)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(CHANGES, st.integers(0, 1 << 16), st.binary(max_size=20))
@example([], 1 << 16, b"")
@example([], 1 << 16, b"\xff\xd9\xff\xda")
def test_sound_files_with_changes(kind, changes, keep, tail):
    data = bytearray(SOUND[kind][:keep] + tail)
    for position, value in changes:
        if data:
            data[position % len(data)] = value
    decodes_or_refuses(bytes(data))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_end_of_a_jpeg_lies_behind_its_marker(data):
    end = jpeg_end(data)
    assert end is None or (end <= len(data) and data[end - 2 : end].endswith(b"\xd9"))


@settings(deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "", "C:", "b c"])).map("/".join))
@example("a/../..")
def test_keys_stay_in_their_folder(key):
    root = Path("/results/pictures")
    try:
        check_key(key, "here")
    except DataError:
        return
    path = (root / f"{key}.png").resolve()
    assert root in path.parents and "\0" not in str(path)
