"""``d2sm benchmark paper``: one training step at the paper's size, run where it can be and planned where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.features import VGG19Features
from d2sm_plugin.features.interface import Part
from d2sm_plugin.losses import D2SMLoss, PatchSampler, QueueSampler, SpatialSampler
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.losses.windows import window_reach
from d2sm_plugin.studies.benchmark.measure import Settings, arithmetic_limit, count_flops, timed
from d2sm_plugin.studies.benchmark.memory_plan import HalfLayers, allocated_peak, largest, planned_peak

_PLANNED = ("samples", "TFLOP", "GiB, planned", "batch in 24 / 48 / 80 GiB, planned")
HEADERS = ("step", *_PLANNED, "seconds", "GiB", "% of limit")
CARDS = (24, 48, 80)
_GIB = 2**30


@dataclass(frozen=True)
class Size:
    """Sizes of a step: images and their side, windows and their stride, VGG19's layers, samples in the queue."""

    batch: int
    crop: int
    window: int
    stride: int
    layer: str
    map_layer: str
    shared_stride: int
    queue: int
    chunk: int
    positions: int
    network: dict[str, Any] = field(default_factory=lambda: {"num_feat": 96, "num_layers": 12})


#: Appendix A of the paper; chunks are ours.
PAPER = Size(64, 512, 224, 56, "fc7", "conv5_4", 8, 4096, 72, 16)
TINY = Size(2, 64, 32, 16, "conv3_1", "conv3_1", 2, 36, 6, 8, {"num_feat": 16, "num_layers": 3})


class _PlannedWindows(PatchSampler):
    """Windows whose late layers compute in bfloat16 on the device "meta" too."""

    def _in_late_dtype(self, late: Part) -> Part:
        def run(maps: Tensor) -> Tensor:
            context: AbstractContextManager[object] = nullcontext() if self.late_dtype is None else HalfLayers()
            with context:
                return late(maps).float()

        return run

    def _early_precision(self, images: Tensor) -> AbstractContextManager[object]:
        return nullcontext()


def variants(size: Size, windows: type[PatchSampler] = PatchSampler) -> dict[str, Callable[[], tuple[str, Sampler]]]:
    """The layer of VGG19 and the sampler of each way to take the step, by name."""
    chunks: dict[str, Any] = {"max_patches_per_chunk": size.chunk}
    shared = {**chunks, "mode": "shared", "shared_stride": size.shared_stride}
    area = size.window, size.stride
    return {
        "crop, in chunks, recomputed": lambda: (size.layer, windows(*area, **chunks)),
        "shared, exact": lambda: (size.layer, windows(*area, **shared)),
        "shared, exact, bf16 late": lambda: (size.layer, windows(*area, **shared, late_dtype="bfloat16")),
        "positions": lambda: (size.map_layer, SpatialSampler(size.positions)),
    }


class PaperStep:
    """One training step: FFDNet, L1 and D2SM over VGG19 with random weights, Adam.

    Args:
        size: of the step.
        layer: of VGG19.
        sampler: takes the samples.
        device: ``"meta"`` for a plan.
        batch: images instead of the size's.
    """

    def __init__(
        self, size: Size, layer: str, sampler: Sampler, device: torch.device, batch: int | None = None
    ) -> None:
        torch.manual_seed(0)
        extractor = _extractor(layer, device)
        self.loss = D2SMLoss(extractor, queue=QueueSampler(size.queue), patches=sampler, loss_weight=1e-3).to(device)
        self.network: nn.Module = FFDNet(3, 3, **size.network).to(device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.clear = torch.rand(batch or size.batch, 3, size.crop, size.crop).to(device)
        self.noisy = self.clear + 0.1 * torch.randn_like(self.clear)
        self.sigma = torch.full((len(self.clear), 1, 1, 1), 0.1, device=device)
        if device.type == "meta":
            self.loss._check._range_is_known = True  # to know it, values would be read
            if isinstance(sampler, PatchSampler) and sampler.mode == "shared":
                window_reach._REACHES[extractor] = {sampler.shared_stride: _reaches(sampler.shared_stride)}

    def __call__(self) -> None:
        """Take the step."""
        self.optimiser.zero_grad(set_to_none=True)
        restored = self.network(self.noisy, self.sigma)
        (F.l1_loss(restored, self.clear) + self.loss(restored, self.clear)).backward()
        self.optimiser.step()

    def held(self) -> Iterator[Tensor]:
        """Tensors that are there between steps."""
        for module in (self.network, self.loss, self.loss.extractor):
            yield from (*module.parameters(), *module.buffers())
        for state in self.optimiser.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
        yield from (self.clear, self.noisy, self.sigma)


@cache
def _extractor(layer: str, device: torch.device) -> VGG19Features:
    return VGG19Features(layer, weights=None).to(device)


@cache
def _reaches(stride: int) -> list[window_reach.Reach]:
    network = VGG19Features("conv4_1", weights=None)
    steps = [window_reach.Step(*step) for step in network.early_steps(stride)]
    return window_reach.measure_reaches(steps, torch.zeros(1))


def plan(size: Size, name: str, batch: int | None = None) -> int:
    """Bytes that a step takes at its peak, with a full queue or as full as one step makes it, by counting."""
    step = PaperStep(size, *variants(size, _PlannedWindows)[name](), torch.device("meta"), batch)
    step()
    return planned_peak(step, list(step.held()))


def measured(size: Size, name: str, batch: int | None = None) -> int:
    """Bytes that the same step takes on the CPU, by its allocator, with what is held between steps."""
    step = PaperStep(size, *variants(size)[name](), torch.device("cpu"), batch)
    step()
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in step.held()}
    return sum(held.values()) + allocated_peak(step)


def paper_table(settings: Settings, plan_only: bool) -> list[list[str]]:
    """Rows of :data:`HEADERS`; seconds and bytes are measured on a GPU, and on a CPU at small sizes."""
    size = TINY if settings.small else PAPER
    runs = not plan_only and (settings.small or settings.device.type == "cuda")
    limit = arithmetic_limit(settings) if runs else 0.0
    rows = []
    for name in tqdm(variants(size), unit="step", disable=None):
        step = PaperStep(size, *variants(size, _PlannedWindows)[name](), torch.device("meta"))
        flops = count_flops(step)
        peak = planned_peak(step, list(step.held()))
        row = [name, str(step.loss.last["samples"]), f"{flops / 1e12:.3g}", f"{peak / _GIB:.3g}"]
        row.append(_largest_planned(size, name) if size is PAPER else "")
        rows.append([*row, *(_run(size, name, settings, flops, limit) if runs else ("not measured", "", ""))])
    return rows


def _largest_planned(size: Size, name: str) -> str:
    """Largest batches whose planned peak fits: once there are some images, each more adds as much to it."""
    few, more = 2, 6
    peaks = plan(size, name, few), plan(size, name, more)
    of_image = (peaks[1] - peaks[0]) / (more - few)
    return " / ".join(str(max(0, int(few + (card * _GIB - peaks[0]) / of_image))) for card in CARDS)


def _run(size: Size, name: str, settings: Settings, flops: int, limit: float) -> tuple[str, str, str]:
    """Seconds, GiB and share of the arithmetic limit of the step, and on a GPU the largest batches that fit."""
    if settings.device.type == "cuda":
        peak, batches = _on_gpu(size, name, settings.device)
    else:
        peak, batches = measured(size, name), ""
    step = PaperStep(size, *variants(size)[name](), settings.device)
    step()
    seconds = min(timed(step, settings.device)[0] for _ in range(min(3, settings.repeats)))
    return f"{seconds:.3g}", f"{peak / _GIB:.3g}{batches}", f"{100 * flops / seconds / limit:.0f}"


def _on_gpu(size: Size, name: str, device: torch.device) -> tuple[int, str]:
    """Allocated bytes of the step at its peak, and the largest batches that fit into each size of card, by trying."""
    total = torch.cuda.get_device_properties(device).total_memory

    def peak_of(batch: int) -> int:
        step = PaperStep(size, *variants(size)[name](), device, batch)
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(2):
            step()
        return torch.cuda.max_memory_allocated(device)

    def fits(card: int, batch: int) -> bool:
        torch.cuda.set_per_process_memory_fraction(min(1.0, card * _GIB / total), device)
        try:
            peak_of(batch)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return True

    counts = [largest(partial(fits, card), 256) for card in CARDS if card * _GIB <= 1.05 * total]
    return peak_of(size.batch), f"; batch {' / '.join(map(str, counts))}"
