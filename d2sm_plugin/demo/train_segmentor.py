"""Training of the small segmentation network that ships with the package, on generated street scenes."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from d2sm_plugin.arguments import MAX_SEED, Parser, number, out_file, whole
from d2sm_plugin.demo.segmentor import DEMO_CHECKPOINT, DEMO_CONFIG, score_scenes
from d2sm_plugin.errors import OptionError
from d2sm_plugin.files import whole_file
from d2sm_plugin.scenes.street_scenes import SEGMENTOR_SEEDS, VAL_SEEDS, render_scene
from d2sm_plugin.seg.classes import CITYSCAPES, IGNORE
from d2sm_plugin.seg.confusion import SegScores
from d2sm_plugin.seg.openmmlab import require_mmseg
from d2sm_plugin.seg.segmentor import Segmentor, build_segmentor

SIGMAS = (0, 25, 35, 50)  # noise levels the trained network is scored at; it is never trained on noise


def _render(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    scene = render_scene(seed, size)
    return scene.image, scene.label


def render_set(seeds: Sequence[int], size: tuple[int, int], workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Render scenes in parallel processes.

    Returns:
        Images uint8 (N, H, W, 3) RGB and labels uint8 (N, H, W).
    """
    images = np.empty((len(seeds), *size, 3), np.uint8)
    labels = np.empty((len(seeds), *size), np.uint8)
    render = partial(_render, size=size)
    bar = partial(tqdm, total=len(seeds), desc="rendering", unit="scene")
    if workers < 2:
        for index, scene in enumerate(bar(map(render, seeds))):
            images[index], labels[index] = scene
        return images, labels
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        for index, scene in enumerate(bar(pool.map(render, seeds, chunksize=8))):
            images[index], labels[index] = scene
    return images, labels


def class_weights(labels: np.ndarray, power: float = 0.4) -> Tensor:
    """Weight classes by their rarity: (19,) float32 with mean 1 over pixels.

    Args:
        labels: uint8 train ids.
        power: 0 weights all pixels alike, 1 all classes.
    """
    counts = np.bincount(labels.ravel(), minlength=256)[: len(CITYSCAPES)].astype(np.float64)
    shares = counts / max(counts.sum(), 1)
    weights = np.maximum(shares, 1e-4) ** -power  # the floor keeps absent classes finite
    return torch.from_numpy((weights / (weights * shares).sum()).astype(np.float32))


def crops(
    images: np.ndarray, labels: np.ndarray, crop: tuple[int, int], batch: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless batches of randomly cut and mirrored scenes: images (B, 3, h, w) in [0,1], labels (B, h, w)."""
    order: list[int] = []
    height, width = labels.shape[1:]
    while True:
        pictures, targets = [], []
        for _ in range(batch):
            if not order:
                order = rng.permutation(len(images)).tolist()
            index, step = order.pop(), int(rng.choice((-1, 1)))
            top, left = rng.integers(height - crop[0] + 1), rng.integers(width - crop[1] + 1)
            window = np.s_[index, top : top + crop[0], left : left + crop[1]]
            pictures.append(images[window][:, ::step])
            targets.append(labels[window][:, ::step])
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        yield pixels, torch.from_numpy(np.stack(targets)).long()


def untrained(seed: int) -> Segmentor:
    """Build the network with the first weights that follow from a seed."""
    require_mmseg()
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel("WARNING")  # it would list how each tensor starts
    torch.manual_seed(seed)  # some layers draw their weights when built, others in init_weights
    segmentor = build_segmentor(DEMO_CONFIG, None)
    segmentor.network.init_weights()
    return segmentor


def train(
    segmentor: Segmentor, batches: Iterator[tuple[Tensor, Tensor]], weights: Tensor, iterations: int, rate: float
) -> float:
    """Train the network of a segmentor in place.

    AdamW with one rise and cosine fall of the learning rate; cross-entropy at full resolution.

    Args:
        segmentor: its network is trained and left in eval mode.
        batches: see :func:`crops`.
        weights: (19,) class weights.
        iterations: number of steps.
        rate: highest learning rate.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    network = segmentor.network.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(iterations, 2), pct_start=0.1)
    losses: list[float] = []
    bar = tqdm(range(iterations), desc="training", unit="iter")
    for _ in bar:
        pixels, targets = next(batches)
        inputs, _ = segmentor.preprocessor(pixels * 255)
        features = network.backbone(inputs.contiguous(memory_format=segmentor.layout))
        logits = F.interpolate(network.decode_head(features), targets.shape[-2:], mode="bilinear")
        loss = F.cross_entropy(logits, targets, weights, ignore_index=IGNORE)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    network.requires_grad_(False).eval()
    return float(np.mean(losses[-max(1, iterations // 10) :]))


def save(segmentor: Segmentor, path: Path, notes: dict[str, Any]) -> None:
    """Write a checkpoint in mmseg's layout, with weights in half precision, atomically."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in segmentor.network.state_dict().items()
    }
    described = {"classes": list(CITYSCAPES.names), "palette": [list(colour) for colour in CITYSCAPES.palette]}
    with whole_file(path) as file:
        torch.save({"meta": {"dataset_meta": described, "training": notes}, "state_dict": state}, file)


def score_table(scores: dict[int, SegScores]) -> str:
    """Per-class IoU and the three means at each noise level, in percent."""
    rows: list[list[str | float]] = [
        [name, *(score.iou[name] for score in scores.values())] for name in CITYSCAPES.names
    ]
    for title in ("miou", "macc", "aacc"):
        rows.append([title, *(getattr(score, title) for score in scores.values())])
    heads = ["class", *("clean" if sigma == 0 else f"sigma {sigma}" for sigma in scores)]
    return tabulate(rows, headers=heads, floatfmt=".1f")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="Train the small segmentation network of the embedded default.")
    parser.add_argument("--out", type=out_file, default=DEMO_CHECKPOINT, help="checkpoint to write")
    parser.add_argument("--scenes", type=whole(1), default=1200, help="number of scenes to render and train on")
    parser.add_argument("--val-scenes", type=whole(1), default=40, help="number of unseen scenes to score")
    parser.add_argument(
        "--size", type=whole(1), nargs=2, default=(192, 384), metavar=("H", "W"), help="size of the scenes"
    )
    parser.add_argument(
        "--crop", type=whole(1), nargs=2, default=(160, 320), metavar=("H", "W"), help="size of the crops"
    )
    parser.add_argument("--iterations", type=whole(1), default=3600)
    parser.add_argument("--batch-size", type=whole(1), default=4)
    parser.add_argument("--lr", type=number(0, above=True), default=2e-3, help="highest learning rate")
    parser.add_argument(
        "--seed", type=whole(0, MAX_SEED), default=0, help="of the first weights and of the order of the crops"
    )
    parser.add_argument("--workers", type=whole(1), default=2, help="processes that render")
    parser.add_argument("--threads", type=whole(1, 1024), default=1, help="threads that train")
    return parser


def main(argv: Sequence[str] | None) -> None:
    """Render, train, write the checkpoint, read it again and score it on unseen scenes, clean and noisy."""
    options = _parser().parse_args(argv)
    size, crop = tuple(options.size), tuple(options.crop)
    if crop[0] > size[0] or crop[1] > size[1]:
        raise OptionError(f"--crop {crop[0]} {crop[1]} is larger than --size {size[0]} {size[1]}; give a smaller crop")
    if not 1 <= options.scenes <= len(SEGMENTOR_SEEDS):
        raise OptionError(f"--scenes {options.scenes}: expected 1 to {len(SEGMENTOR_SEEDS)}")
    torch.set_num_threads(options.threads)
    images, labels = render_set(SEGMENTOR_SEEDS[: options.scenes], size, options.workers)
    segmentor = untrained(options.seed)
    batches = crops(images, labels, crop, options.batch_size, np.random.default_rng(options.seed))
    loss = train(segmentor, batches, class_weights(labels), options.iterations, options.lr)
    settings = {key: getattr(options, key) for key in ("scenes", "iterations", "batch_size", "lr", "seed")}
    save(segmentor, options.out, {**settings, "size": list(size), "crop": list(crop), "loss": loss})
    tqdm.write(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")
    written = build_segmentor(DEMO_CONFIG, options.out)
    seeds = VAL_SEEDS[: options.val_scenes]
    scores = {sigma: score_scenes(written, seeds, size, sigma) for sigma in SIGMAS}
    tqdm.write(score_table(scores))
