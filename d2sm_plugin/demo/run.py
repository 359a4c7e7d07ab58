"""The embedded default: the main job from data to figures, on generated scenes, without a download."""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from tabulate import tabulate

from d2sm_plugin.arguments import Parser, out_folder, whole
from d2sm_plugin.cli import INTERRUPTED
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.data.decoding import decode_rgb
from d2sm_plugin.data.prepare import prepare_data as preparation
from d2sm_plugin.demo.findings import divergences, miou_difference, sentences
from d2sm_plugin.errors import OptionError
from d2sm_plugin.files import whole_file, write_csv
from d2sm_plugin.metrics.images import to_uint8
from d2sm_plugin.options.files import shipped_folder
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.checkpoint import CheckpointStore
from d2sm_plugin.pipeline.distributed import start_processes
from d2sm_plugin.pipeline.loaders import build_evaluation_loaders
from d2sm_plugin.pipeline.pictures import side_by_side, write_png
from d2sm_plugin.pipeline.testing import run_test
from d2sm_plugin.seg.scorer import SegmentationScorer

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend is chosen first: there may be no screen

_BASE = "demo_base"  # what both runs start from
_L1, _D2SM = "L1", "L1 + D2SM"
_RUNS = {_L1: "demo_l1", _D2SM: "demo_d2sm"}
_ROWS = ("noisy", *_RUNS, "clean")
_MEASURES = ("psnr", "ssim", "mIoU", "divergence")
_SIZE = ("192", "384")

Table = dict[int, dict[str, dict[str, float]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Make data, train, go on with L1 and with L1 + D2SM, test, and print the table; see ``--help``.

    Returns:
        0, or :data:`~d2sm_plugin.cli.INTERRUPTED` when a training was asked to stop.
    """
    parser = Parser(description="Train FFDNet with L1 and with L1 + D2SM on generated street scenes.")
    add_custom_import(parser)
    parser.add_argument(
        "--out", type=out_folder, default=Path("demo_output"), help="folder for everything that is made"
    )
    parser.add_argument("--options", type=Path, default=shipped_folder(), help="folder with demo_*.yml")
    parser.add_argument(
        "--iterations", type=whole(1), default=None, help="training steps of each run (default: the files')"
    )
    parser.add_argument("--num-train", type=whole(1), default=160, help="scenes to train on")
    parser.add_argument("--num-val", type=whole(1), default=24, help="scenes to test on")
    args = parser.parse_args(argv)
    if not (args.options / "demo_l1.yml").is_file():
        raise OptionError(f"--options {args.options}: there is no demo_l1.yml in it")
    begun = time.monotonic()
    data = args.out / "data"
    counts = ["--num-train", str(args.num_train), "--num-val", str(args.num_val), "--size", *_SIZE]
    preparation.main(["demo", "--out", str(data), *counts, "--overwrite"])
    for run in (_BASE, *_RUNS.values()):
        if not training.train(["-opt", str(args.options / f"{run}.yml"), "--force_yml", *_overrides(args, data, run)]):
            print("The demo stops, as the training was asked to.")  # noqa: T201
            return INTERRUPTED
    table, loaders = _measure(args, data)
    measured = divergences(data / "val_images.lmdb", _restored(args.out, loaders), args.options / f"{_RUNS[_D2SM]}.yml")
    for sigma, methods in measured.items():
        for method, result in methods.items():
            table[int(sigma)][method]["divergence"] = float(result.means.kl)
    _write_table(table, args.out / "table.csv")
    _plot_curves(args.out)
    _write_gallery(args.out, loaders)
    highest = max(loaders, key=_sigma_of)
    miou = miou_difference(_results(args.out, _D2SM), _results(args.out, _L1), highest)
    _print_report(table, sentences(measured, _L1, _D2SM, miou), args.out, time.monotonic() - begun)
    return 0


def _results(out: Path, method: str) -> Path:
    return out / "results" / f"{_RUNS[method]}_test"


def _sigma_of(test_set: str) -> int:
    return int(test_set.rsplit("sigma", 1)[1])


def _restored(out: Path, sets: Iterable[str]) -> dict[float, dict[str, Path]]:
    """Return noise level -> method -> folder of what it restored."""
    return {_sigma_of(name): {m: _results(out, m) / "visualization" / name for m in _RUNS} for name in sets}


def _overrides(args: argparse.Namespace, data: Path, run: str) -> list[str]:
    changed = [
        f"datasets:train:dataroot_gt={_quoted(data / 'train_images.lmdb')}",
        f"datasets:val:dataroot_gt={_quoted(data / 'val_images.lmdb')}",
        f"path:experiments_root={_quoted(args.out / 'experiments')}",
    ]
    if run != _BASE:
        changed.append(f"path:pretrain_network_g={_quoted(_weights(args.out, _BASE))}")
    if args.iterations is not None:
        changed += [f"train:total_iter={args.iterations}", f"train:scheduler:periods=[{args.iterations}]"]
    return changed


def _quoted(path: Path) -> str:
    """A path as a text of YAML, whatever is in it."""
    return json.dumps(str(path), ensure_ascii=False)


def _measure(args: argparse.Namespace, data: Path) -> tuple[Table, Mapping[str, Any]]:
    """Return noise level -> method -> metric -> value, and the loaders of the test scenes by set."""
    table: Table = {}
    for method, run in _RUNS.items():
        options = _test_options(args, data, f"{run}_test", _weights(args.out, run))
        for name, (_, metrics) in run_test(options, str(args.options / "demo_test.yml")).items():
            rows = table.setdefault(_sigma_of(name), {})
            rows[method] = {key: metrics[key] for key in ("psnr", "ssim", "mIoU")}
            rows["noisy"] = {"psnr": metrics["psnr_input"], "ssim": metrics["ssim_input"]}
    loaders = build_evaluation_loaders(options["datasets"], ("test",), 0, 1)
    for name, loader in loaders.items():
        rows = table[_sigma_of(name)]
        hook = SegmentationScorer({**options["val"]["segmentation"], "overlay": False})
        rows["noisy"]["mIoU"] = _miou(hook, loader, "lq")
        rows["clean"] = {"psnr": float("inf"), "ssim": 1.0, "mIoU": _miou(hook, loader, "gt"), "divergence": 0.0}
    return table, loaders


def _weights(out: Path, run: str) -> Path:
    return CheckpointStore(out / "experiments" / run).network_file("net_g", "latest")


def _test_options(args: argparse.Namespace, data: Path, name: str, weights: Path) -> dict[str, Any]:
    changed = [
        f"name={name}",
        f"datasets:test:dataroot_gt={_quoted(data / 'val_images.lmdb')}",
        f"path:pretrain_network_g={_quoted(weights)}",
        f"path:results_root={_quoted(args.out / 'results')}",
        f"val:segmentation:labels={_quoted(data / 'val_labels.lmdb')}",
    ]
    options = read_options(args.options / "demo_test.yml", is_train=False, force=changed)
    return options | start_processes("none", options["num_gpu"])


def _miou(hook: SegmentationScorer, loader: Any, entry: str) -> float:
    hook.start()
    with torch.inference_mode():
        for batch in loader:
            hook.add(batch["key"], batch[entry])
    return hook.finish()["mIoU"]


def _write_table(table: Table, path: Path) -> None:
    lines = [[sigma, m, *(rows[m][name] for name in _MEASURES)] for sigma, rows in table.items() for m in _ROWS]
    write_csv(path, ["sigma", "method", *_MEASURES], lines)


def _plot_curves(out: Path) -> None:
    """Draw PSNR against training steps into ``curves.png``: what both runs start from, then each of them."""
    figure, axes = pyplot.subplots(figsize=(6, 4))
    common = _psnr_curve(out, _BASE)
    axes.plot(*zip(*common, strict=True), color="grey", marker=".", label="L1, common start")
    last, start = common[-1]
    for method, run in _RUNS.items():
        curve = [(last, start), *((last + step, value) for step, value in _psnr_curve(out, run))]
        axes.plot(*zip(*curve, strict=True), marker=".", label=method)
    axes.set_xlabel("training step")
    axes.set_ylabel("PSNR on validation scenes, σ = 25 (dB)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    with whole_file(out / "curves.png") as file:
        figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _psnr_curve(out: Path, run: str) -> list[tuple[int, float]]:
    with (out / "experiments" / run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["iter"]), float(row["value"])) for row in csv.DictReader(file) if row["metric"] == "psnr"]


def _write_gallery(out: Path, loaders: Mapping[str, Any]) -> None:
    """Write the first scene at each noise level, noisy, restored and clean side by side, into ``gallery.png``."""
    rows = []
    for name, loader in loaders.items():
        batch = next(iter(loader))
        images = {f"noisy, {name.rsplit('_', 1)[1]}": to_uint8(batch["lq"][0])}
        for method in _RUNS:
            picture = _results(out, method) / "visualization" / name / f"{batch['key'][0]}.png"
            images[method] = decode_rgb(picture.read_bytes(), str(picture))
        rows.append(side_by_side({**images, "clean": to_uint8(batch["gt"][0])}))
    write_png(out / "gallery.png", np.vstack(rows))


def _print_report(
    table: Mapping[int, Mapping[str, Mapping[str, float]]], findings: Sequence[str], out: Path, seconds: float
) -> None:
    lines = [
        [f"σ = {sigma}", method, *(rows[method][name] for name in _MEASURES[:3]), 1e3 * rows[method]["divergence"]]
        for sigma, rows in table.items()
        for method in _ROWS
    ]
    text = tabulate(
        lines,
        headers=["noise", "images", "PSNR (dB)", "SSIM", "MIoU (%)", "divergence (10⁻³)"],
        tablefmt="github",
        floatfmt=("", "", ".2f", ".4f", ".1f", ".3f"),
    )
    print(f"\n{text}\n")  # noqa: T201  # the command's result
    for line in findings:
        print(line)  # noqa: T201
    print(f"Scenes side by side: {out}/gallery.png")  # noqa: T201
    print(f"Training curves:     {out}/curves.png")  # noqa: T201
    print(f"Every picture:       {out}/results/*/comparison/")  # noqa: T201
    print(f"Done in {seconds / 60:.1f} minutes.")  # noqa: T201
