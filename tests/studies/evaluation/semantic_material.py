"""Pictures, a small network and option blocks for the tools that compare features."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch

ARGUMENTS = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_layers": 3}
EXTRACTOR = "{type: VGG19Features, layer: relu2_1, weights: ~, pooling: mean}"
VIEW = f"{{extractor: {EXTRACTOR}, patches: {{type: PatchSampler, size: 32, stride: 16, max_patches: 2}}}}"


def make_network(folder: Path) -> tuple[Path, Path]:
    """Write option file and weights of a small FFDNet."""
    from basicsr.utils.registry import ARCH_REGISTRY

    torch.manual_seed(0)
    torch.save({"params": ARCH_REGISTRY.get("FFDNet")(**ARGUMENTS).state_dict()}, folder / "net.pth")
    lines = ["name: t", "datasets:", "  test:", "    type: NoisyImageDataset", "    sigma: 25", "    dataroot_gt: any"]
    lines += ["network_g:", "  type: FFDNet", *(f"  {key}: {value}" for key, value in ARGUMENTS.items())]
    (folder / "t.yml").write_text("\n".join(lines) + "\n")
    return folder / "t.yml", folder / "net.pth"


def make_blurred(source: Path, target: Path, deviation: float) -> Path:
    """Write every picture of a folder blurred, under its name with the suffix that testing adds."""
    target.mkdir()
    for path in sorted(source.glob("*.png")):
        blurred = cv2.GaussianBlur(cv2.imread(str(path)), (0, 0), deviation)
        cv2.imwrite(str(target / f"{path.stem}_FFDNet.png"), blurred)
    return target
