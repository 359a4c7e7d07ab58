"""Reading training crops: pairs of stored images by BasicSR, against images that get their noise as they are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from d2sm_plugin.data.decoding import decode_rgb, encode_png
from d2sm_plugin.data.prepare.prepare_data import main as prepare_data
from d2sm_plugin.pipeline.loaders import build_dataset
from d2sm_plugin.studies.benchmark.material import scene_folder
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step

#: Crops that one step reads.
CROPS = 16
_SCENES = 4
_LEVELS = [0, 75]


def build(settings: Settings, windows: bool = False) -> Case:
    """Crops of 128x128 out of scenes of 512x1024 (small: 32 and 128x256), flipped and turned; one process.

    Args:
        settings: of the run.
        windows: both read LMDBs of windows (``d2sm prepare --crop-size``), half as large again as the crops.
    """
    height, width, crop, window = sides(settings)
    out_of = f"windows of {window}x{window}" if windows else f"{height}x{width}"
    pairs = {"type": "PairedImageDataset", "io_backend": {"type": "lmdb"}}
    noisy = {"type": "NoisyImageDataset", "sigma_range": _LEVELS}
    blocks: dict[str, dict[str, Any]] = {
        "PairedImageDataset": pairs,
        "NoisyImageDataset": noisy,
        "NoisyImageDataset, noise_on: device": {**noisy, "noise_on": "device"},
    }

    def reader(block: dict[str, Any]) -> Step:
        roots = [("dataroot_gt", "images")] + [("dataroot_lq", "noisy")] * (block is pairs)
        stored = {key: str(stored_scenes(sides(settings), part, windows)) for key, part in roots}
        options = {"phase": "train", "scale": 1, "gt_size": crop, "use_hflip": True, "use_rot": True}
        dataset = build_dataset({**block, **stored, **options}, "datasets.train")
        indices = np.linspace(0, len(dataset) - 1, CROPS).astype(int).tolist()  # type: ignore[arg-type]

        def step() -> None:
            for index in indices:
                dataset[index]

        return step

    variants: dict[str, Callable[[], Step]] = {name: partial(reader, block) for name, block in blocks.items()}
    return Case(f"reading {CROPS} crops of {crop}x{crop} out of {out_of}", "PairedImageDataset", variants)


def sides(settings: Settings) -> tuple[int, int, int, int]:
    """Return height and width of the scenes, and the sides of crops and windows."""
    return (128, 256, 32, 48) if settings.small else (512, 1024, 128, 192)


@cache
def stored_scenes(sizes: tuple[int, int, int, int], part: str, windows: bool) -> Path:
    """Return an LMDB of scenes, or windows of them, removed with the process.

    Args:
        sizes: as :func:`sides` gives them.
        part: ``images``, or ``noisy``: with noise and rounded to 8 bits, as pairs are stored.
        windows: as :func:`build` has them.
    """
    height, width, _, window = sizes
    folder = scene_folder(_SCENES, height, width)
    if part == "noisy":
        _write_noisy(folder / "images", folder / "noisy")
    target = folder / "stored" / f"{part}{'_windows' * windows}.lmdb"
    arguments = ["folder", "--src", str(folder / part), "--out", str(target.parent), "--name", target.stem]
    prepare_data(arguments + (["--crop-size", str(window)] if windows else []))
    return target


def _write_noisy(images: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for file in sorted(images.iterdir()):
        image = decode_rgb(file.read_bytes(), str(file))
        noisy = image + generator.normal(0, generator.uniform(*_LEVELS), image.shape)
        (target / file.name).write_bytes(encode_png(noisy.round().clip(0, 255).astype(np.uint8), 1))
