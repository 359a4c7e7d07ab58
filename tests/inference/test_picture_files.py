from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from d2sm_plugin.errors import DataError
from d2sm_plugin.inference.picture_files import Picture, read_picture, write_picture


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("ending", [".png", ".webp", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_without_loss(tmp_path, ending, channels, alpha, dtype):
    picture = Picture(noise((7, 9, channels), dtype), noise((7, 9), dtype, seed=1) if alpha else None)
    path = tmp_path / "new folder" / f"picture{ending}"
    deep = dtype == np.uint16
    if (deep and ending in (".webp", ".bmp")) or (alpha and ending == ".bmp"):
        with pytest.raises(DataError, match="cannot hold"):
            write_picture(path, picture)
        assert not path.parent.exists()
        return
    write_picture(path, picture)
    again = read_picture(path)
    # Grey comes back from WebP as three equal channels.
    assert again.pixels.shape == (7, 9, 3 if ending == ".webp" else channels)
    shown = picture.alpha > 0 if alpha and ending == ".webp" else ...  # WebP drops colours that cannot be seen
    assert again.pixels.dtype == dtype
    assert (again.pixels == picture.pixels)[shown].all()
    assert (again.alpha is None) if not alpha else np.array_equal(again.alpha, picture.alpha)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_jpeg_is_close_and_has_no_room_for_more(tmp_path):
    smooth = np.add.outer(np.arange(40), np.arange(50))[..., None].repeat(3, 2).astype(np.uint8)
    write_picture(tmp_path / "a.JPG", Picture(smooth))
    assert np.abs(read_picture(tmp_path / "a.JPG").pixels.astype(int) - smooth).max() <= 4
    for picture in (Picture(smooth, smooth[..., 0]), Picture(smooth.astype(np.uint16))):
        with pytest.raises(DataError, match=r"cannot hold .*; write a \.png"):
            write_picture(tmp_path / "b.jpg", picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "deep"])
def test_pictures_are_turned_upright(tmp_path, orientation, kind):
    image = Image.fromarray(noise((6, 9, 3)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if kind == "deep" else kind, exif=exif)
    buffer.seek(0)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    data = buffer.getvalue()
    if kind == "deep":  # the chunk with the orientation moved into a 16-bit PNG of the same pixels
        deep = cv2.imencode(".png", np.asarray(image)[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
        at = data.index(b"eXIf") - 4
        length = int.from_bytes(data[at : at + 4], "big") + 12
        data = deep[:33] + data[at : at + length] + deep[33:]
    (tmp_path / "turned").write_bytes(data)
    pixels = read_picture(tmp_path / "turned").pixels
    assert pixels.dtype == (np.uint16 if kind == "deep" else np.uint8)
    assert np.array_equal(pixels, expected.astype(np.uint16) * 257 if kind == "deep" else expected)


def test_kinds_of_pillow(tmp_path):
    colours = Image.fromarray(noise((8, 8, 3)))
    for name, image, channels, alpha in (
        ("palette.png", colours.convert("P"), 3, False),
        ("bits.png", colours.convert("1"), 1, False),
        ("grey.png", colours.convert("L"), 1, False),
        ("cmyk.jpg", colours.convert("CMYK"), 3, False),
        ("cmyk.tif", colours.convert("CMYK"), 3, False),
        ("grey_alpha.png", colours.convert("LA"), 1, True),
    ):
        image.save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert picture.pixels.shape == (8, 8, channels), name
        assert (picture.alpha is not None) == alpha, name
    colours.convert("P").save(tmp_path / "clear.png", transparency=3)
    assert read_picture(tmp_path / "clear.png").alpha is not None


def test_deep_grey_with_transparency(tmp_path):
    grey, alpha = noise((5, 4), np.uint16), noise((5, 4), np.uint16, seed=1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.stack((grey, alpha), -1))
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 4, 5, 16, 4, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "deep.png").write_bytes(data)
    picture = read_picture(tmp_path / "deep.png")
    assert np.array_equal(picture.pixels[..., 0], grey)
    assert picture.pixels.shape[-1] == 1
    assert np.array_equal(picture.alpha, alpha)


def test_colour_profile_is_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise((8, 8, 3))).save(tmp_path / "in.png", icc_profile=profile)
    for name in ("out.png", "out.jpg", "out.webp", "out.tif"):
        write_picture(tmp_path / name, read_picture(tmp_path / "in.png"))
        assert Image.open(tmp_path / name).info["icc_profile"] == profile


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_truncated_files(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(noise((40, 50, 3))).save(buffer, kind)
    for keep in (0, 10, len(buffer.getvalue()) * 2 // 3):
        (tmp_path / "cut").write_bytes(buffer.getvalue()[:keep])
        with pytest.raises(DataError, match=f"{tmp_path / 'cut'}: it "):
            read_picture(tmp_path / "cut")


def test_pictures_that_are_refused(tmp_path):
    colours = Image.fromarray(noise((8, 8, 3)))
    colours.save(tmp_path / "pages.tif", save_all=True, append_images=[colours])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "text.png").write_text("no picture")
    tifffile.imwrite(tmp_path / "turned.tif", noise((8, 8), np.uint16), extratags=[(274, "H", 1, 6, True)])
    tifffile.imwrite(tmp_path / "signed.tif", noise((8, 8), np.int16))
    for name, message in (
        ("pages.tif", "2 frames or pages"),
        ("float.tif", "floating-point"),
        ("turned.tif", "must be upright"),
        ("signed.tif", "whole numbers"),
        ("text.png", "does not decode"),
        ("missing.png", "No such file"),
    ):
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_deep_tiffs_of_another_writer(tmp_path, shape):
    values = noise(shape, np.uint16)
    extra = {"extrasamples": ["unassalpha"]} if shape[2:] == (4,) else {}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if len(shape) == 3 else "minisblack", **extra)
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels, values[..., None] if len(shape) == 2 else values[..., :3])
    assert np.array_equal(picture.alpha, values[..., 3]) if extra else picture.alpha is None


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_picture(path, Picture(noise((4, 4, 3))))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DataError, match=r"a\.png: cannot be written \(No space left on device"):
        write_picture(path, Picture(noise((4, 4, 3), seed=1)))
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]
