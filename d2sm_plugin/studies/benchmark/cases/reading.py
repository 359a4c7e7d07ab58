"""Reading crops of images from an LMDB and from a folder."""

from __future__ import annotations

from pathlib import Path

from d2sm_plugin.data.noisy_image_dataset import NoisyImageDataset
from d2sm_plugin.data.prepare.prepare_data import main as prepare_data
from d2sm_plugin.studies.benchmark.material import scene_folder
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Step


def build(settings: Settings) -> Case:
    """Eight street scenes of 512x1024 (128x256 when small), a crop of 256 (64) and noise each, one process."""
    height, width, crop = (128, 256, 64) if settings.small else (512, 1024, 256)

    def prepare(lmdb: bool) -> Step:
        folder = scene_folder(8, height, width)
        root = folder / "images"
        if lmdb:
            root = folder / "stored" / "scenes.lmdb"
            if not root.exists():
                prepare_data(
                    ["folder", "--src", str(folder / "images"), "--out", str(root.parent), "--name", root.stem]
                )
        dataset = _dataset(root, crop)

        def step() -> None:
            for index in range(len(dataset)):
                dataset[index]

        return step

    variants = {"folder": lambda: prepare(False), "LMDB": lambda: prepare(True)}
    return Case(f"reading 8 crops of {crop}x{crop} out of {height}x{width}", "folder", variants)


def _dataset(root: Path, crop: int) -> NoisyImageDataset:
    return NoisyImageDataset(
        {"phase": "train", "dataroot_gt": str(root), "gt_size": crop, "sigma_range": [0, 75], "use_hflip": True}
    )
