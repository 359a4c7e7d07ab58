"""Shrinks a shipped option file until it runs in seconds, and makes the data it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from face_samples import face_folder
from PIL import Image

from d2sm_plugin.data.prepare.prepare_data import main as prepare_data

#: Patches of the paper's size would not fit into tiny crops.
PATCH = {"size": 32, "stride": 16}
TINY_WIDTH = {
    "FFDNet": {"num_feat": 8, "num_layers": 3},
    "CBDNet": {"num_feat": 8},
    "SADNet": {"num_feat": 8},
    "MSBDN": {"num_feat": 4, "num_block": 1},
    "GFN": {"num_feat": 4},
    "GridDehazeNet": {"num_feat": 4, "growth": 4, "num_layers": 1},
    "PFFNet": {"num_feat": 4, "num_block": 1},
    "DuRN": {"num_feat": 4, "kernels": [5, 7]},
    "DehazeCGAN": {"num_feat": 1},
    "DehazeCGANDiscriminator": {"num_feat": 2},
    "MSRResNet": {"num_feat": 8, "num_block": 1},
    "MSRResNetX8": {"num_feat": 8, "num_block": 1},
    "RDN": {"num_feat": 4, "growth": 4, "num_block": 1, "num_layer": 2},
    "URDGN": {"num_feat": [4, 4, 4, 4]},
    "URDGNDiscriminator": {"num_feat": [4, 4, 4, 4], "num_hidden": 8},
    "FSRNet": {"num_feat": 4, "num_prior_feat": 4, "num_block": [1, 1, 1]},
    "FSRGANDiscriminator": {"num_feat": [4, 4, 4, 4]},
    "PFSR": {"num_feat": 16},
    "PFSRDiscriminator": {"num_feat": 4, "num_hidden": 8},
    "StackedHourglass": {"num_stack": 2, "num_feat": 8},
    "DICNet": {
        "num_feat": 4, "num_steps": 2, "num_groups": 2, "projection": 2, "num_fusion_blocks": 1,
        "num_hourglass_feat": 8, "hourglass_weights": None,
    },
}  # fmt: skip


class TinyData:
    """Tiny LMDBs, each made once.

    Args:
        photographs: folder of 96x96 pictures.
        root: where the LMDBs go.
    """

    def __init__(self, photographs: Path, root: Path) -> None:
        self.photographs, self.root = photographs, root
        self._made: dict[str, str] = {}

    def images(self) -> str:
        """Return an LMDB of six 96x96 photographs."""
        if "images" not in self._made:
            prepare_data(["folder", "--src", str(self.photographs), "--out", str(self.root), "--name", "images"])
            self._made["images"] = str(self.root / "images.lmdb")
        return self._made["images"]

    def noisy_images(self, block: dict[str, Any]) -> dict[str, Any]:
        """Shrink a block of NoisyImageDataset."""
        block["dataroot_gt"] = self.images()
        if "gt_size" in block:
            block["gt_size"] = 64
        if isinstance(block.get("sigma"), list):
            block["sigma"] = block["sigma"][:1]
        return block

    def reduced_images(self, scale: int) -> str:
        """Return an LMDB of the same photographs, a whole number of times smaller."""
        name = f"images_x{scale}"
        if name not in self._made:
            folder = self.root / name
            folder.mkdir()
            for file in self.photographs.iterdir():
                with Image.open(file) as image:
                    image.reduce(scale).save(folder / file.name)
            prepare_data(["folder", "--src", str(folder), "--out", str(self.root), "--name", name])
            self._made[name] = str(self.root / f"{name}.lmdb")
        return self._made[name]

    def paired_images(self, block: dict[str, Any], scale: int = 1) -> dict[str, Any]:
        """Shrink a block of PairedImageDataset; gt is ``scale`` times as large as lq."""
        block |= {"dataroot_gt": self.images(), "dataroot_lq": self.reduced_images(scale)}
        if "gt_size" in block:
            block["gt_size"] = 64
        return block

    def faces(self, block: dict[str, Any]) -> dict[str, Any]:
        """Shrink a block of FaceDataset to three drawn faces, large and small, with the landmarks it names."""
        points = block["points"]
        if points not in self._made:
            folder, table = face_folder(self.root / f"faces_{points}", 3, 128, points)
            prepare_data(
                ["faces", "--src", str(folder), "--landmarks", str(table), "--out", str(self.root), "--split", points]
            )
            self._made[points] = str(self.root / points)
        start = self._made[points]
        block |= {"dataroot_gt": f"{start}_hr.lmdb", "landmarks": f"{start}_landmarks.csv"}
        if block.get("dataroot_lq"):
            block["dataroot_lq"] = f"{start}_lr.lmdb"
        if block.get("name", "").endswith("_train"):
            return block
        return {**block, "num_images": 1}


def tiny(
    raw: dict[str, Any], data: TinyData, root: Path, datasets: dict[str, Callable[[dict], dict]]
) -> dict[str, Any]:
    """Return a shipped option file's content, shrunk.

    Args:
        raw: the content.
        data: tiny LMDBs.
        root: where the run's folders go.
        datasets: type of dataset -> function that shrinks its block.
    """
    raw["num_gpu"] = 0
    for key, block in raw["datasets"].items():
        block = datasets[block["type"]](block)
        block |= {"num_worker_per_gpu": 0}
        if key == "train":
            block["batch_size_per_gpu"] = 2
        elif "num_images" in block or block["type"] == "NoisyImageDataset":
            block["num_images"] = 1
        raw["datasets"][key] = block
    path = raw.setdefault("path", {})
    path |= {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")}
    for name in ("pretrain_network_g", "pretrain_network_d", "resume_state"):
        path.pop(name, None)
    for name in ("network_g", "network_d"):
        if name in raw:
            raw[name] |= TINY_WIDTH.get(raw[name]["type"], {})
    if "train" in raw:
        raw["train"] |= {"total_iter": 2, "accumulate": 1}
        if "growth" in raw["train"]:
            raw["train"]["growth"] = {"ends": [1, 2], "fade": 1}
        raw["logger"] = {**raw.get("logger", {}), "use_tb_logger": False, "print_freq": 1}
    val = raw.setdefault("val", {})
    val.pop("segmentation", None)
    val |= {"save_img": False} | ({"tile": 64, "tile_overlap": 16} if val.get("tile") else {})
    _shrink(raw)
    return raw


def _shrink(value: Any) -> None:
    """Take weights that would be downloaded from extractors, and cut patches, queues and schedules down."""
    if isinstance(value, list):
        for item in value:
            _shrink(item)
    if not isinstance(value, dict):
        return
    if str(value.get("type", "")).endswith("Features") and not str(value.get("weights", "")).startswith("package:"):
        value["weights"] = None
    if value.get("type") == "PatchSampler":
        value |= PATCH
    if value.get("type") == "VGGLoss":
        value["weights"] = None
    if value.get("type") == "HeatmapLoss":
        value |= {"weights": None, "network": value["network"] | TINY_WIDTH["StackedHourglass"]}
    if "schedule" in value:
        value["schedule"] = [[1, 0], [2, 1]]
    if value.get("type") == "QueueSampler":
        value["size"] = min(value["size"], 48)
    for item in value.values():
        _shrink(item)
