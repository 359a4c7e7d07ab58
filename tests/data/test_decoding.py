"""Pictures and label maps as people have them, against values that the test itself encoded, Pillow and mmseg."""

from __future__ import annotations

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, features
from PIL.Image import Exif

from d2sm_plugin.data.decoding import decode_label, decode_rgb
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.data.picture_head import MAX_PIXELS, TYPES, jpeg_end, picture_size
from d2sm_plugin.errors import DataError
from d2sm_plugin.inference.picture_files import read_picture

ORIENTATION = 0x0112
needs_avif = pytest.mark.skipif(".avif" not in TYPES, reason="this Pillow reads no AVIF")


def noise(shape, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)


def smooth(height=24, width=40):
    rows, columns = np.mgrid[:height, :width]
    return np.stack((6 * rows, 4 * columns, 255 - 3 * rows), axis=-1).astype(np.uint8)


def encoded(pixels, kind, **settings):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values, bits, colour_type=0, palette=None, before=b""):
    """A PNG file of indices or grey values of 1 to 16 bits, written by hand."""
    height, width = values.shape
    rows = b""
    for row in values:
        if bits == 16:
            packed = row.astype(">u2").tobytes()
        else:
            places = [int(value) >> (bits - 1 - place) & 1 for value in row for place in range(bits)]
            packed = np.packbits(places).tobytes()
        rows += b"\0" + packed
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + before
    if palette is not None:
        chunks += png_chunk(b"PLTE", bytes(palette))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------------ label maps


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_labels_keep_their_stored_values(bits):
    values = noise((9, 13), min(2**bits, 256))
    assert np.array_equal(decode_label(png(values, bits), "a"), values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_labels_give_their_indices(bits):
    values = noise((9, 13), 2**bits)
    colours = noise(3 * 2**bits, seed=1).tolist()
    data = png(values, bits, colour_type=3, palette=colours)
    assert np.array_equal(decode_label(data, "a"), values)


@pytest.mark.parametrize("kind", ["bits", "palette", "grey"])
def test_labels_are_what_mmseg_reads(tmp_path, kind):
    transforms = pytest.importorskip("mmseg.datasets.transforms")
    values = noise((9, 13), 2)
    image = {
        "bits": lambda: Image.fromarray(values.astype(bool)),
        "palette": lambda: Image.fromarray(values * 0 + 3 * values).quantize(2),
        "grey": lambda: Image.fromarray(values),
    }[kind]()
    image.save(tmp_path / "a.png")
    results = {"seg_map_path": str(tmp_path / "a.png"), "reduce_zero_label": False, "seg_fields": []}
    read = transforms.LoadAnnotations().transform(results)["gt_seg_map"]
    assert np.array_equal(open_images(tmp_path).read_label("a"), read)


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_labels_of_other_lossless_types(kind, mode):
    values = noise((9, 13), 2 if mode == "1" else 200)
    image = Image.fromarray(values.astype(bool) if mode == "1" else values)
    if mode == "P":
        image = Image.fromarray(values)
        image.putpalette(noise(768, seed=1).tolist())
    assert np.array_equal(decode_label(encoded(image, kind), "a"), values)


def test_labels_that_are_refused():
    for data, words in (
        (png(np.full((4, 4), 300), 16), "label value 300"),
        (encoded(noise((8, 8, 3)), "PNG"), "3 of 8 bits; turn colours into ids"),
        (encoded(noise((8, 8, 4)), "PNG"), "4 of 8 bits"),
        (encoded(Image.fromarray(noise((8, 8))).convert("LA"), "PNG"), "2 of 8 bits"),
        (encoded(noise((8, 8)), "JPEG"), "JPEG changes the values"),
        (encoded(noise((8, 8, 3)), "WEBP"), "turn colours into ids"),
        (encoded(np.zeros((8, 8), np.float32), "TIFF"), "32 bits"),
        (encoded(Image.fromarray(noise((8, 8))), "TIFF", tiffinfo={262: 0}), "counts from white down"),
    ):
        with pytest.raises(DataError, match=f"some/label: .*{words}"):
            decode_label(data, "some/label")


# ------------------------------------------------------------------------------ what stands behind and beside a picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("tail", [b"\0" * 9 + b"\xff\xda" + b"\0" * 9, b"\xff\xd8\xff\xe1 film \xff\xd9", b"\xff\xda"])
def test_bytes_behind_a_picture_do_not_count(kind, tail):
    data = encoded(smooth(), kind)
    assert np.array_equal(decode_rgb(data + tail, "motion"), decode_rgb(data, "plain"))
    if kind == "JPEG":
        assert jpeg_end(data + tail) == len(data)


def test_first_picture_of_several_in_a_jpeg(tmp_path):
    first, preview = Image.fromarray(smooth()), Image.fromarray(smooth(12, 20))
    data = encoded(first, "MPO", save_all=True, append_images=[preview])
    (tmp_path / "phone.jpg").write_bytes(data)
    alone = decode_rgb(encoded(first, "JPEG"), "alone")
    assert np.array_equal(decode_rgb(data, "phone"), alone)
    assert np.array_equal(read_picture(tmp_path / "phone.jpg").pixels, alone)


@pytest.mark.parametrize("progressive", [False, True])
def test_cut_jpeg_with_a_whole_thumbnail_is_damaged(progressive):
    thumbnail = encoded(smooth(12, 20), "JPEG")
    data = encoded(noise((40, 40, 3)), "JPEG", progressive=progressive)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert decode_rgb(data, "whole").shape == (40, 40, 3)
    for keep in (len(data) - 2, len(data) - 20, len(data) // 2):
        with pytest.raises(DataError, match="cut: it does not decode"):
            decode_rgb(data[:keep], "cut")


def test_reduced_copy_beside_a_tiff_is_passed_over_and_pages_are_not(tmp_path):
    page, small = Image.fromarray(smooth()), Image.fromarray(smooth(12, 20))
    small.encoderinfo = {}
    with_preview = io.BytesIO()
    page.save(with_preview, "TIFF", save_all=True, append_images=[small])
    with pytest.raises(DataError, match="2 frames or pages"):
        decode_rgb(with_preview.getvalue(), "pages")
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(smooth(), photometric="rgb")
        writer.write(smooth(12, 20), photometric="rgb", subfiletype=1)
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, smooth())


def test_animations_are_refused():
    for kind in ("WEBP", "PNG"):
        frames = [Image.fromarray(smooth()), Image.fromarray(noise((24, 40, 3)))]
        with pytest.raises(DataError, match="2 frames"):
            decode_rgb(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), "film")


# --------------------------------------------------------------------------------------------------- orientation


def turned(pixels, orientation):
    """Pixels as a viewer shows them, by numpy's own operations."""
    return {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: np.swapaxes(p, 0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(np.swapaxes(p, 0, 1), 2),
        8: np.rot90,
    }[orientation](pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_pictures_and_labels_are_turned_as_they_are_shown(tmp_path, kind, orientation):
    exif = Exif()
    exif[ORIENTATION] = orientation
    settings = {"exif": exif} | ({"lossless": True} if kind == "WEBP" else {})
    ending = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}[kind]
    path = tmp_path / f"a{ending}"
    path.write_bytes(encoded(smooth(), kind, **settings))
    stored = smooth() if kind != "JPEG" else decode_rgb(encoded(smooth(), "JPEG"), "plain")
    expected = turned(stored, orientation)
    assert np.array_equal(decode_rgb(path.read_bytes(), "a"), expected)
    assert np.array_equal(read_picture(path).pixels, expected)
    assert picture_size(path) == expected.shape[:2]
    if kind in ("PNG", "TIFF"):
        label = noise((6, 9), 20)
        assert np.array_equal(decode_label(encoded(label, kind, exif=exif), "a"), turned(label, orientation))


def test_damaged_exif_says_nothing():
    data = encoded(smooth(), "JPEG")
    block = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert np.array_equal(decode_rgb(broken, "a"), decode_rgb(data, "a"))


# ------------------------------------------------------------------------------------------------------ file types


@pytest.mark.parametrize("ending", sorted(TYPES))
def test_every_type_is_read_the_same_by_all_tools(tmp_path, ending):
    settings = {"WEBP": {"lossless": True}, "AVIF": {"quality": 90}, "JPEG": {"quality": 95}}.get(TYPES[ending], {})
    (tmp_path / f"a{ending}").write_bytes(encoded(smooth(), TYPES[ending], **settings))
    read = open_images(tmp_path).read_rgb("a")
    assert np.abs(read.astype(int) - smooth()).mean() < (3 if TYPES[ending] in ("JPEG", "AVIF") else 1e-9)
    assert np.abs(read.astype(int) - read_picture(tmp_path / f"a{ending}").pixels).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_read_the_same_by_all_tools(tmp_path, kind):
    ending = ".jpg" if kind == "JPEG" else ".tif"
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / f"a{ending}", quality=95)
    assert np.array_equal(open_images(tmp_path).read_rgb("a"), read_picture(tmp_path / f"a{ending}").pixels)


def test_unread_types_are_counted_aloud(tmp_path, caplog):
    for name in ("a.png", "b.heic", "c.HEIC", "d.gif", "notes.txt", ".e.gif"):
        (tmp_path / name).write_bytes(encoded(smooth(), "PNG"))
    assert open_images(tmp_path).keys == ["a"]
    assert "passed over, as these types are not read: 1 .gif, 2 .heic" in caplog.text


def test_content_decides_not_the_name(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(smooth(), "BMP"))
    assert np.array_equal(open_images(tmp_path).read_rgb("a"), smooth())


@pytest.mark.parametrize("kind", ["GIF", "PPM", "EPS", "PDF", "ICO"])
def test_types_that_are_not_read(kind):
    """Of these, EPS would start another program."""
    with pytest.raises(DataError, match="does not decode"):
        decode_rgb(encoded(smooth(64, 64), kind), "a")


# --------------------------------------------------------------------------------------------- hostile and odd files


def giant(kind):
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", 32768, 32768, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 99))
    if kind == "BMP":
        return encoded(smooth(), "BMP")[:18] + struct.pack("<ii", 32768, 32768) + encoded(smooth(), "BMP")[26:]
    data = bytearray(encoded(smooth(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG"])
@pytest.mark.parametrize("decode", [decode_rgb, decode_label])
def test_heads_that_declare_giants(kind, decode):
    with pytest.raises(DataError, match=r"giant: .*pixels"):
        decode(giant(kind), "giant")


def test_limit_can_be_raised_for_one_picture(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("1", (MAX_PIXELS // 10_000 + 1, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large.png: .*pixels.*; raise it"):
        read_picture(tmp_path / "large.png", remedy="raise it")
    assert picture_size_within(tmp_path / "large.png") == (10_000, MAX_PIXELS // 10_000 + 1)
    assert before == Image.MAX_IMAGE_PIXELS


def picture_size_within(path):
    from d2sm_plugin.data.picture_head import open_picture

    with open_picture(path.read_bytes(), str(path), max_pixels=2 * MAX_PIXELS) as (_, head):
        return head.height, head.width


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_no_pictures(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), smooth())
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b.png: it is a pipe, a device or a link that leads nowhere"):
        open_images(tmp_path)
    with pytest.raises(DataError, match=r"b.png: it is no file"):
        read_picture(tmp_path / "b.png")


def test_links_that_lead_nowhere_are_no_pictures(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"a.png: .*leads nowhere"):
        open_images(tmp_path)


@needs_avif
def test_avif_is_among_the_types():
    assert features.check("avif")
