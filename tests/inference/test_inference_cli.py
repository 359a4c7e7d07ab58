from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from d2sm_plugin.archs.cbdnet_arch import CBDNet
from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import CheckpointError, DataError, DependencyError, OptionError
from d2sm_plugin.inference.inference import main
from d2sm_plugin.inference.noise_level import estimate_noise_level
from d2sm_plugin.inference.picture_files import Picture, read_picture, write_picture
from d2sm_plugin.inference.picture_restorer import PictureRestorer
from d2sm_plugin.registry import ARCH_REGISTRY, build

TOOL = Path(__file__).resolve().parents[2] / "tools" / "inference.py"
ARGUMENTS = ["--network-args", "num_feat=8", "num_layers=3"]


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    network = FFDNet(num_feat=8, num_layers=3).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    return network


@pytest.fixture
def folder(tmp_path):
    """Pictures of every kind, and one file that is none."""
    pictures = {
        "a.png": Picture(noise((20, 31, 3))),
        "sub/grey.png": Picture(noise((9, 12, 1))),
        "sub/deeper/clear.png": Picture(noise((15, 15, 3)), noise((15, 15), seed=1)),
        "sub/deep.PNG": Picture(noise((12, 18, 3), np.uint16)),
        "b.jpg": Picture(noise((16, 16, 3))),
    }
    for name, picture in pictures.items():
        write_picture(tmp_path / "in" / name, picture)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_text("no picture")
    return tmp_path / "in"


@pytest.fixture
def run(network, tmp_path):
    """The tool on pictures and a folder for the results, with the small network."""

    def run(source, out, *more):
        checkpoint = str(tmp_path / "net.pth")
        common = ["-i", str(source), "-o", str(out), "--network", "FFDNet", *ARGUMENTS, "--checkpoint", checkpoint]
        return main([*common, "--device", "cpu", *map(str, more)])

    return run


def test_folder_in_folder_out(folder, run, tmp_path):
    out = tmp_path / "out"
    assert run(folder, out, "--sigma", 25, "--tile", 16) == 0
    names = {path.relative_to(folder) for path in folder.rglob("[!.]*.*") if path.suffix.lower() in (".png", ".jpg")}
    assert {path.relative_to(out) for path in out.rglob("*.*")} == names
    for name in names:
        before, after = read_picture(folder / name), read_picture(out / name)
        assert after.pixels.shape == before.pixels.shape
        assert after.pixels.dtype == before.pixels.dtype
        assert np.array_equal(after.alpha, before.alpha) if before.alpha is not None else after.alpha is None


@pytest.mark.parametrize("name", ["a.png", "sub/deep.PNG"])
def test_result_is_that_of_the_network(folder, run, network, tmp_path, name):
    run(folder / name, tmp_path / "out", "--sigma", 40)
    before, after = read_picture(folder / name), read_picture(tmp_path / "out" / Path(name).name)
    white = np.iinfo(before.pixels.dtype).max
    lq = torch.from_numpy(before.pixels.astype(np.float32) / white).permute(2, 0, 1)[None]
    with torch.inference_mode():
        restored = network(lq, torch.full((1, 1, 1, 1), 40 / 255))[0].permute(1, 2, 0)
    expected = (restored.double().clamp(0, 1) * white).round().numpy()
    assert np.abs(after.pixels - expected).max() <= (1 if white == 255 else 2)


def test_grey_through_colour_is_the_mean_and_colour_through_grey_is_by_channel(network):
    grey = Picture(noise((10, 11, 1)))
    colour_restorer = PictureRestorer(network, sigma=25)
    lq = torch.from_numpy(grey.pixels[..., 0] / np.float32(255)).expand(1, 3, -1, -1)
    with torch.inference_mode():
        mean = network(lq, torch.full((1, 1, 1, 1), 25 / 255)).mean(1)[0].clamp(0, 1) * 255
    assert np.abs(colour_restorer.restore(grey, 25).pixels[..., 0] - mean.numpy()).max() <= 0.501
    torch.manual_seed(1)
    grey_restorer = PictureRestorer(FFDNet(1, 1, num_feat=8, num_layers=3), sigma=25)
    colour = noise((10, 11, 3))
    together = grey_restorer.restore(Picture(colour), 25).pixels
    for channel in range(3):
        alone = grey_restorer.restore(Picture(colour[..., channel : channel + 1]), 25).pixels
        assert np.array_equal(together[..., channel : channel + 1], alone)


def test_network_from_an_option_file_and_named_outputs(folder, tmp_path):
    torch.save(CBDNet(num_feat=8, layout="port").state_dict(), tmp_path / "net.pth")
    option_file = tmp_path / "train.yml"
    option_file.write_text("name: x\nnetwork_g:\n  type: CBDNet\n  num_feat: 8\n  layout: port\n")
    common = ["-i", str(folder), "-o", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "net.pth")]
    assert main(["-opt", str(option_file), *common, "--device", "cpu", "--amp", "bf16"]) == 0
    option_file.write_text("name: x\nnetwork_g: !!python/object/apply:os.system [ls]\n")
    with pytest.raises(OptionError, match="no tags that build objects"):
        main(["-opt", str(option_file), *common, "--existing", "overwrite"])
    option_file.write_text("name: x\n")
    with pytest.raises(OptionError, match="network_g: expected the block"):
        main(["-opt", str(option_file), *common, "--existing", "overwrite"])


def test_enlarging_network_gets_its_transparency_enlarged():
    class Twice(torch.nn.Module):
        def forward(self, images):
            return images.repeat_interleave(2, -1).repeat_interleave(2, -2)

    restored = PictureRestorer(Twice()).restore(Picture(noise((5, 6, 3)), np.full((5, 6), 200, np.uint8)), None)
    assert restored.pixels.shape == (10, 12, 3)
    assert restored.alpha.shape == (10, 12)
    assert (restored.alpha == 200).all()


def test_unreadable_picture_is_named_and_the_others_are_restored(folder, run, tmp_path, capsys):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:100])
    assert run(folder, tmp_path / "out", "--sigma", 25) == 1
    captured = capsys.readouterr()
    assert f"left out: {folder / 'broken.png'}: it does not decode" in captured.err
    assert "5 of 6 pictures restored" in captured.out
    assert not (tmp_path / "out" / "broken.png").exists()
    with pytest.raises(DataError, match=r"broken\.png"):
        run(folder, tmp_path / "out2", "--sigma", 25, "--stop")


def test_tool_exits_with_a_status_and_one_line(folder, run, tmp_path):
    base = [sys.executable, str(TOOL), "-i", str(folder / "a.png"), "-o", str(tmp_path / "out"), "--network", "FFDNet"]
    base += [*ARGUMENTS, "--checkpoint", str(tmp_path / "net.pth"), "--device", "cpu"]
    environment = {"PYTHONPATH": str(TOOL.parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    failed = subprocess.run(base, capture_output=True, text=True, env=environment, check=False)
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1].startswith("error: FFDNet wants to be told the noise level")


@pytest.mark.parametrize("value", ["-1", "256", "nan", "much"])
def test_noise_levels_that_are_none(folder, run, tmp_path, value):
    with pytest.raises(OptionError, match="between 0 and 255, or 'estimate'"):
        run(folder, tmp_path / "out", f"--sigma={value}")
    assert not (tmp_path / "out").exists()


def test_blind_network_is_not_told_the_noise_level():
    with pytest.raises(OptionError, match="leave --sigma out"):
        PictureRestorer(CBDNet(num_feat=8), sigma=25)


def test_network_that_takes_what_pictures_lack(network):
    network.inputs = ("lq", "depth")
    with pytest.raises(OptionError, match="takes depth"):
        PictureRestorer(network)


def test_estimating_needs_pywavelets(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(DependencyError, match=r'pip install "\.\[inference\]"'):
        PictureRestorer(network, sigma="estimate")


def test_estimate_of_known_noise(folder, run, network, tmp_path, capsys):
    pytest.importorskip("pywt")
    generator = np.random.default_rng(0)
    smooth = np.linspace(0.3, 0.7, 128)[:, None, None] * np.ones((1, 128, 3))
    noisy = (smooth + generator.normal(0, 25 / 255, smooth.shape)).astype(np.float32)
    assert 255 * estimate_noise_level(noisy) == pytest.approx(25, rel=0.05)
    assert run(folder / "a.png", tmp_path / "out", "--sigma", "estimate") == 0
    assert "a.png: noise level " in capsys.readouterr().out
    deep = Picture(np.rint(noisy.clip(0, 1) * 65535).astype(np.uint16))
    assert PictureRestorer(network, sigma="estimate").noise_level(deep) == pytest.approx(25, rel=0.05)


def test_given_pictures_are_never_overwritten(folder, run, network, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, folder / "restored", folder / "sub" / "..", tmp_path / "link"):
        with pytest.raises(DataError, match="give another folder"):
            run(folder, out, "--sigma", 25, "--existing", "overwrite")
    with pytest.raises(DataError, match="give another folder"):
        run(folder / "a.png", folder, "--sigma", 25)
    (folder / "sub" / "a.png").write_bytes(before[folder / "a.png"])
    before[folder / "sub" / "a.png"] = before[folder / "a.png"]
    target = tmp_path / "target"  # whose subfolder is a link to one of the given pictures
    target.mkdir()
    (target / "deeper").symlink_to(folder / "sub" / "deeper")
    with pytest.raises(DataError, match="would overwrite a given picture"):
        run(folder / "sub", target, "--sigma", 25, "--existing", "overwrite")
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_existing_results(folder, run, tmp_path):
    out = tmp_path / "out"
    run(folder / "a.png", out, "--sigma", 25)
    first = (out / "a.png").read_bytes()
    with pytest.raises(DataError, match=r"a\.png: exists already"):
        run(folder, out, "--sigma", 50)
    assert run(folder, out, "--sigma", 50, "--existing", "skip") == 0
    assert (out / "a.png").read_bytes() == first
    assert run(folder, out, "--sigma", 50, "--existing", "overwrite") == 0
    assert (out / "a.png").read_bytes() != first
    assert run(folder, out, "--sigma", 50, "--existing", "skip") == 0


def test_results_as_png_and_names_that_would_meet(folder, run, tmp_path):
    run(folder, tmp_path / "out", "--sigma", 25, "--format", "png")
    assert (tmp_path / "out" / "b.png").is_file()
    write_picture(folder / "b.png", Picture(noise((4, 4, 3))))
    with pytest.raises(DataError, match=r"both .*b\.jpg and .*b\.png would be written there"):
        run(folder, tmp_path / "out2", "--sigma", 25, "--format", "png")


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--network-args", "num_feats=8"], OptionError, "did you mean 'num_feat'"),
        (["--network-args", "num_feat"], OptionError, "expected name=value"),
        (["--network-args", "num_feat=16"], CheckpointError, "not a checkpoint of this FFDNet"),
        (["--param-key", "params_ema"], CheckpointError, "no entry 'params_ema'"),
        (["--network", "FFDNett"], OptionError, "did you mean 'FFDNet'"),
        (["--device", "nowhere"], OptionError, "--device: 'nowhere' cannot be used"),
        (["--tile", "8", "--tile-overlap", "8"], DataError, "a.png"),
    ],
)
def test_bad_arguments(folder, run, tmp_path, more, error, message):
    with pytest.raises((error, OptionError), match=message):
        run(folder, tmp_path / "out", "--sigma", 25, "--stop", *more)


def test_folders_without_pictures(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (("empty", "no pictures in it"), ("nowhere", "no such file or folder")):
        with pytest.raises(DataError, match=message):
            run(tmp_path / source, tmp_path / "out", "--sigma", 25)
    with pytest.raises(DataError, match="not among the file types"):
        run(tmp_path / "net.pth", tmp_path / "out", "--sigma", 25)


@pytest.mark.parametrize(
    ("name", "network_args"),
    [
        ("RDN", {"num_feat": 4, "growth": 4, "num_block": 1, "num_layer": 1}),
        ("URDGN", {"num_feat": [4, 4, 4, 4]}),
        ("FSRNet", {"num_feat": 4, "num_prior_feat": 4, "num_block": [1, 1, 1]}),
        ("PFSR", {"num_feat": 16}),
    ],
)
def test_faces_are_restored_by_8(tmp_path, name, network_args):
    network = build(ARCH_REGISTRY, {"type": name, **network_args}, "network").eval()
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    face = noise((16, 16, 3))
    write_picture(tmp_path / "in" / "face.png", Picture(face))
    arguments = [
        "-i",
        tmp_path / "in",
        "-o",
        tmp_path / "out",
        "-n",
        name,
        "-c",
        tmp_path / "net.pth",
        "--device",
        "cpu",
    ]
    pairs = [f"{key}={value}" for key, value in network_args.items()]
    assert main([*map(str, arguments), "--network-args", *pairs]) == 0
    with torch.inference_mode():
        outputs = network(torch.from_numpy(face).permute(2, 0, 1)[None] / 255)
    expected = (outputs["restored"] if isinstance(outputs, dict) else outputs).clamp(0, 1)[0] * 255
    restored = read_picture(tmp_path / "out" / "face.png").pixels
    assert restored.shape == (128, 128, 3)
    assert np.abs(restored - expected.permute(1, 2, 0).numpy()).max() <= 0.501


def test_networks_that_want_even_sizes_restore_odd_ones_and_those_behind(tmp_path):
    from basicsr.utils.registry import ARCH_REGISTRY

    sizes = {"num_in_ch": 3, "num_out_ch": 3, "scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    torch.save(ARCH_REGISTRY.get("RRDBNet")(**sizes).state_dict(), tmp_path / "net.pth")
    for name, shape in (("a_even", (16, 20)), ("b_odd", (15, 21)), ("c_tiny", (1, 1))):
        write_picture(tmp_path / "in" / f"{name}.png", Picture(noise((*shape, 3))))
    common = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-c", tmp_path / "net.pth", "-n", "RRDBNet"]
    arguments = [f"{name}={value}" for name, value in sizes.items()]
    assert main([*map(str, common), "--network-args", *arguments, "--device", "cpu"]) == 0
    shapes = {path.stem: read_picture(path).pixels.shape[:2] for path in (tmp_path / "out").iterdir()}
    assert shapes == {"a_even": (32, 40), "b_odd": (30, 42), "c_tiny": (2, 2)}


def test_whatever_fails_is_a_line_and_the_rest_goes_on(folder, run, tmp_path, capsys, monkeypatch):
    """Errors of every origin: a network's own, a picture that its type cannot hold, memory that ran out."""
    restore = PictureRestorer.restore

    def failing(self, picture, level):
        for size, error in (((20, 31), ZeroDivisionError("by\nzero")), ((9, 12), MemoryError())):
            if picture.pixels.shape[:2] == size:
                raise error
        return restore(self, picture, level)

    monkeypatch.setattr(PictureRestorer, "restore", failing)
    assert run(folder, tmp_path / "out", "--sigma", 25) == 1
    captured = capsys.readouterr()
    assert "3 of 5 pictures restored" in captured.out
    lines = captured.err.splitlines()
    assert f"left out: {folder / 'a.png'}: ZeroDivisionError: by zero" in lines
    assert f"left out: {folder / 'sub/grey.png'}: MemoryError: ".rstrip() in [line.rstrip() for line in lines]
    with pytest.raises(DataError, match=r"a\.png: ZeroDivisionError: by zero"):
        run(folder, tmp_path / "out2", "--sigma", 25, "--stop")


@pytest.mark.parametrize("size", [(2, 16384), (16384, 2)])
def test_results_that_their_type_cannot_hold(run, tmp_path, capsys, size):
    (tmp_path / "in").mkdir()
    write_picture(tmp_path / "in" / "wide.png", Picture(noise((*size, 3))))
    (tmp_path / "in" / "wide.png").rename(tmp_path / "in" / "wide.webp")  # read by content, written by name
    write_picture(tmp_path / "in" / "x.png", Picture(noise((8, 8, 3))))
    assert run(tmp_path / "in", tmp_path / "out", "--sigma", 25) == 1
    captured = capsys.readouterr()
    assert "1 of 2 pictures restored" in captured.out
    assert "cannot be encoded as WEBP" in captured.err and "write a .png" in captured.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_odd_things_in_a_folder_are_lines_each(run, tmp_path, capsys):
    source = tmp_path / "in"
    write_picture(source / "z.png", Picture(noise((8, 8, 3))))
    long = source / ("n" * 246 + ".png")
    (source / "z.png").rename(long)
    write_picture(source / "z.png", Picture(noise((8, 8, 3))))
    os.mkfifo(source / "pipe.png")
    (source / "nowhere.png").symlink_to(source / "gone.png")
    header = struct.pack(">IIBBBBB", 32768, 32768, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (source / "giant.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + (source / "z.png").read_bytes()[33:])
    assert run(source, tmp_path / "out", "--sigma", 25) == 1
    captured = capsys.readouterr()
    assert "2 of 5 pictures restored" in captured.out
    for name, reason in (("pipe", "it is no file"), ("nowhere", "cannot be read"), ("giant", "pixels")):
        assert re.search(rf"left out: .*{name}\.png: .*{reason}", captured.err)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [long.name, "z.png"]


def test_limit_of_pixels(run, tmp_path, capsys):
    write_picture(tmp_path / "in" / "a.png", Picture(noise((1010, 1000, 3))))
    assert run(tmp_path / "in", tmp_path / "out", "--sigma", 25, "--max-megapixels", 1) == 1
    assert "1000x1010 pixels" in capsys.readouterr().err
    assert run(tmp_path / "in", tmp_path / "out", "--sigma", 25, "--max-megapixels", 2, "--tile", 256) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_hidden_colours_do_not_bleed_into_what_is_seen(network, dtype):
    """Whatever colours lie under transparent pixels, the visible ones are restored the same."""
    rows, columns = np.mgrid[:24, :30]
    visible = (rows - 12) ** 2 + (columns - 15) ** 2 < 64
    alpha = (visible * np.iinfo(dtype).max).astype(dtype)
    pixels = noise((24, 30, 3), dtype)
    restorer = PictureRestorer(network, sigma=25)
    results = []
    for hidden in (np.zeros_like(pixels), noise(pixels.shape, dtype, seed=1)):
        picture = Picture(np.where(visible[..., None], pixels, hidden), alpha)
        results.append(restorer.restore(picture, 25))
        assert np.array_equal(results[-1].alpha, alpha)
    assert np.array_equal(results[0].pixels[visible], results[1].pixels[visible])
    plain = Picture(np.full((24, 30, 3), 200, np.uint8))  # a plain colour stays what it is up to its edge
    half = Picture(np.where(visible[..., None], plain.pixels, 0).astype(np.uint8), (visible * 255).astype(np.uint8))
    assert np.array_equal(restorer.restore(half, 25).pixels[visible], restorer.restore(plain, 25).pixels[visible])


def test_tiles_give_the_same_pixels(network):
    for picture in (Picture(noise((70, 50, 3))), Picture(noise((70, 50, 1))), Picture(noise((70, 50, 3), np.uint16))):
        whole = PictureRestorer(network, sigma=25).restore(picture, 25).pixels.astype(int)
        tiled = PictureRestorer(network, sigma=25, tile=32).restore(picture, 25).pixels
        assert np.abs(tiled - whole).max() <= 1
