"""How alike do objectives pull a network? Cosines of their gradients for FFDNet, at its output and in its weights.

Usage: python examples/compare_gradients.py IMAGES ffdnet_color.pth [--lpips vgg16.pth] [--out gradients.csv]

Two objectives whose gradients at the restored image have little in common can still change the weights alike. In the
column "halves", the weights' gradient of one comes from other crops than that of the other; of an objective with
itself it says how far the direction is known at all. Each gradient has length 1 at the restored images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.arguments import Parser, number, out_file, whole
from d2sm_plugin.cli import run_tool
from d2sm_plugin.data.image_store import ImageStore, open_images
from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_csv
from d2sm_plugin.losses import D2SMLoss, SpatialSampler
from d2sm_plugin.losses.distribution_loss import DistributionLoss
from d2sm_plugin.losses.feature_loss import FeatureLoss
from d2sm_plugin.losses.lpips_loss import LPIPSLoss
from d2sm_plugin.losses.ssim_loss import SSIMLoss
from d2sm_plugin.weights import load_weights

BATCH, CROP = 4, 128


def build_objectives(lpips: Path | None) -> dict[str, nn.Module]:
    """Return the objectives by name; the last ones compare the features that D2SM does."""
    d2sm = D2SMLoss()
    objectives: dict[str, nn.Module] = {"L1": nn.L1Loss(), "MSE": nn.MSELoss(), "SSIM": SSIMLoss()}
    if lpips is not None:
        objectives["LPIPS"] = LPIPSLoss("vgg", trunk=lpips)
    objectives |= {"D2SM": d2sm, "features": FeatureLoss(d2sm.extractor, "l2", spatial=True)}
    for distance in ("mmd_polynomial", "sliced_wasserstein", "coral", "gram"):
        objectives[distance] = DistributionLoss(distance, d2sm.extractor, SpatialSampler(max_positions=64))
    return objectives


def gradients(
    network: nn.Module, objective: nn.Module, noisy: Tensor, clear: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    """Return an objective's gradient at the restored images, scaled to length 1, and the weights' that follows."""
    restored = network(noisy, torch.full((len(clear), 1, 1, 1), sigma / 255))
    (at_output,) = torch.autograd.grad(objective(restored, clear), restored, retain_graph=True)
    at_output = at_output / at_output.norm()
    of_weights = torch.autograd.grad(restored, list(network.parameters()), at_output)
    return at_output.flatten(), torch.cat([part.flatten() for part in of_weights])


def random_crops(images: ImageStore, rng: np.random.Generator) -> Tensor:
    """Return crops (B, 3, H, W), RGB in [0, 1], of images that are at least as large."""
    crops = []
    for key in rng.choice(np.array(images.keys), BATCH):
        image = images.read_rgb(str(key))
        if min(image.shape[:2]) < CROP:
            at_least, size = f"{CROP}x{CROP}", f"{image.shape[1]}x{image.shape[0]}"
            raise DataError(f"{images.describe(str(key))}: expected at least {at_least} pixels, got {size}")
        y, x = (int(rng.integers(size - CROP + 1)) for size in image.shape[:2])
        crops.append(torch.from_numpy(image[y : y + CROP, x : x + CROP].copy()).permute(2, 0, 1) / 255)
    return torch.stack(crops)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write a row for each pair of objectives."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="folder (or LMDB) of clean images")
    parser.add_argument("weights", type=Path, help="of FFDNet for colour images")
    parser.add_argument("--sigma", type=number(0, 255), default=50.0, help="standard deviation of the noise, of 255")
    parser.add_argument("--batches", type=whole(2), default=40, help="even; of four crops of 128x128")
    parser.add_argument("--lpips", type=Path, help="torchvision's weights of VGG16, for a row with LPIPS")
    parser.add_argument("--out", type=out_file, default=Path("gradients.csv"))
    arguments = parser.parse_args(argv)
    if arguments.batches % 2:
        parser.error(f"--batches {arguments.batches}: expected an even number, as halves of them are compared")
    images, rng, network = open_images(arguments.images), np.random.default_rng(0), FFDNet()
    load_weights(network, arguments.weights)
    objectives = build_objectives(arguments.lpips)
    at_output = dict.fromkeys(product(objectives, objectives), 0.0)
    halves: dict[str, list[Tensor | float]] = {name: [0.0, 0.0] for name in objectives}
    for batch in trange(arguments.batches, unit="batch"):
        clear = random_crops(images, rng)
        noisy = clear + arguments.sigma / 255 * torch.from_numpy(rng.standard_normal(clear.shape, dtype=np.float32))
        pairs = {}
        for name, objective in objectives.items():
            pairs[name] = gradients(network, objective, noisy, clear, arguments.sigma)
            halves[name][batch % 2] += pairs[name][1]
        for a, b in at_output:
            at_output[a, b] += float(pairs[a][0] @ pairs[b][0]) / arguments.batches
    write(arguments.out, at_output, halves)


def write(path: Path, at_output: dict[tuple[str, str], float], halves: dict[str, list[Tensor | float]]) -> None:
    """Write cosines for each pair of objectives."""
    cosine = partial(torch.cosine_similarity, dim=0)
    lines = []
    for (a, b), value in at_output.items():
        across = (cosine(halves[a][0], halves[b][1]) + cosine(halves[a][1], halves[b][0])) / 2
        values = [value, cosine(sum(halves[a]), sum(halves[b])), across]
        lines.append([a, b, *(f"{float(value):.3f}" for value in values)])
    write_csv(path, ["objective", "other", "at the output", "in the weights", "halves"], lines)


if __name__ == "__main__":
    run_tool(main)
