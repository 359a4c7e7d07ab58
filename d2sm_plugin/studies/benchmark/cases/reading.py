"""Reading crops of images with noise, against BasicSR's pairs of a clean and a noisy file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from basicsr.data.paired_image_dataset import PairedImageDataset

from d2sm_plugin.data.noisy_image_dataset import NoisyImageDataset
from d2sm_plugin.data.prepare.prepare_data import main as prepare_data
from d2sm_plugin.studies.benchmark.material import scene_folder
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step

_AUGMENT = {"phase": "train", "use_hflip": True, "use_rot": True}


def build(settings: Settings) -> Case:
    """Eight street scenes of 512x1024 (128x256 when small), a crop of 256 (64) of each, one process."""
    height, width, crop = (128, 256, 64) if settings.small else (512, 1024, 256)
    folder = scene_folder(8, height, width)

    def read_crops(*options: str) -> Step:
        root = folder / "images"
        if options:
            root = folder / "stored" / f"scenes{len(options)}.lmdb"
            if not root.exists():
                arguments = ["--src", str(folder / "images"), "--out", str(root.parent), "--name", root.stem]
                prepare_data(["folder", *arguments, *options[1:]])
        dataset = NoisyImageDataset({**_AUGMENT, "dataroot_gt": str(root), "gt_size": crop, "sigma_range": [0, 75]})
        return lambda: [dataset[index * len(dataset) // 8] for index in range(8)]

    return Case(
        f"reading 8 crops of {crop}x{crop} out of {height}x{width}",
        "BasicSR's PairedImageDataset, folders",
        {
            "BasicSR's PairedImageDataset, folders": lambda: _pairs(folder, crop),
            "NoisyImageDataset, folder": read_crops,
            "NoisyImageDataset, LMDB": lambda: read_crops("lmdb"),
            "NoisyImageDataset, LMDB of windows": lambda: read_crops("lmdb", "--crop-size", str(2 * crop)),
        },
    )


def _pairs(folder: Path, crop: int) -> Step:
    noisy = folder / "noisy"
    if not noisy.exists():
        noisy.mkdir()
        generator = np.random.default_rng(0)
        for file in sorted((folder / "images").iterdir()):
            clean = np.asarray(cv2.imread(str(file)))
            noise = 25 * generator.standard_normal(clean.shape)
            cv2.imwrite(str(noisy / file.name), np.clip(clean + noise, 0, 255).astype(np.uint8))
    roots = {"dataroot_gt": str(folder / "images"), "dataroot_lq": str(noisy), "filename_tmpl": "{}"}
    dataset = PairedImageDataset({**_AUGMENT, **roots, "io_backend": {"type": "disk"}, "gt_size": crop, "scale": 1})
    return lambda: [dataset[index] for index in range(8)]
