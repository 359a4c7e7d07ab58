"""Blocks of a frozen network on a CPU as one step of autograd: convolutions, clamps and a shortcut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2sm_plugin.features.cpu.frozen_conv import Clamped, FrozenConv
from d2sm_plugin.features.cpu.frozen_layers import FrozenReLU6, StridedDepthwise

#: Names of the layers of timm's blocks in order, by the class of the block: convolution, normalisation behind it.
_BLOCKS = {
    "ConvBnAct": (("conv", "bn1"),),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}


def chain_blocks(network: nn.Module) -> int:
    """Make a :class:`FrozenChain` of every block of a timm network that can be one, and of its last convolution.

    These are the blocks of MobileNet and EfficientNet without squeeze and excitation, with ReLU or ReLU6.

    Args:
        network: in eval mode, its batch normalisations folded, its parameters final; changed in place.

    Returns:
        The number of chains.
    """
    chains = []
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            chain = _chain_of(module)
            if chain is not None:
                chains.append((parent, name, chain))
        if {"conv_head", "bn2"} <= set(dict(parent.named_children())):
            head = _layers(parent, (("conv_head", "bn2"),))
            if head is not None:
                chain = FrozenChain(nn.Sequential(parent.conv_head, parent.bn2), head, False)
                chains += [(parent, "conv_head", chain), (parent, "bn2", nn.Identity())]
    for parent, name, chain in chains:
        setattr(parent, name, chain)
    return sum(isinstance(chain, FrozenChain) for _, _, chain in chains)


#: Bytes of a map inside a chain. Larger batches are taken in parts, which stay in the cache and in memory that the
#: process has already: of what is larger, the system hands out new pages every time, at several times the cost.
_BUFFER = 24 * 2**20


class FrozenChain(nn.Module):
    """Convolutions, each with a clamp behind it or not, and perhaps a shortcut around all of them.

    Three things make it faster than its parts. The clamp and the sum with the shortcut are done where a convolution
    writes its result, in both directions. The gradient is clamped in place, where autograd would have to allocate,
    and a large allocation costs the system a multiple of the clamp. And weights are brought into oneDNN's layout once.
    It serves float32 and float64 maps in channels_last on a CPU, outside autocast; others take the block as it was.

    Args:
        block: what it replaces.
        layers: its convolutions that :meth:`FrozenConv.fits`, each with the upper bound of the clamp behind it
            (infinity for ReLU), or None for no clamp. All but the last one have a clamp.
        skip: whether the input is added to the result; then the last one has no clamp.
    """

    def __init__(self, block: nn.Module, layers: Sequence[tuple[nn.Module, float | None]], skip: bool) -> None:
        super().__init__()
        self.block, self.layers, self.skip = block, list(layers), skip
        self._prepared: tuple[object, list[FrozenConv]] | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, D, h / s, w / s) of maps (B, C, h, w)."""
        if not self._serves(maps):
            return self.block(maps)
        convs = self._convs(maps.dtype)
        if torch.is_grad_enabled() and maps.requires_grad:
            return _Chain.apply(maps, convs, self.skip)
        parts = [_run(part, convs, self.skip) for part in maps.split(_batch(maps.shape, convs, maps.element_size()))]
        return _joined(parts)

    def _serves(self, maps: Tensor) -> bool:
        if torch.compiler.is_compiling() or maps.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        if maps.dtype not in (torch.float32, torch.float64) or any(c.weight.dtype != maps.dtype for c in self._plain()):
            return False
        steps = [layer.step for layer, _ in self.layers if isinstance(layer, StridedDepthwise)]
        even = all(side % step == 0 for side in maps.shape[-2:] for step in steps)
        return even and maps.numel() > 0 and maps.is_contiguous(memory_format=torch.channels_last)

    def _plain(self) -> list[nn.Conv2d]:
        return [layer.conv if isinstance(layer, StridedDepthwise) else layer for layer, _ in self.layers]

    def _convs(self, dtype: torch.dtype) -> list[FrozenConv]:
        """The layers, prepared once for the weights as they are."""
        weights = [conv.weight for conv in self._plain()]
        key = [(dtype, w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]
        if self._prepared is None or self._prepared[0] != key:
            with torch.no_grad():
                self._prepared = key, [FrozenConv(layer, ceiling) for layer, ceiling in self.layers]
        return self._prepared[1]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files do without what was prepared: oneDNN's layout belongs to this processor."""
        return {**self.__dict__, "_prepared": None}


def _batch(shape: torch.Size, convs: Sequence[FrozenConv], bytes_each: int) -> int:
    """How many maps to take at a time, in parts of about one size."""
    count, channels, height, width = shape
    largest = channels * height * width
    for conv in convs:
        height, width = height // conv.step, width // conv.step
        largest = max(largest, conv.channels * height * width)
    number = math.ceil(count * largest * bytes_each / _BUFFER)
    return math.ceil(count / max(1, number))


def _run(maps: Tensor, convs: Sequence[FrozenConv], skip: bool, keep: list[Tensor] | None = None) -> Tensor:
    """Result of the last convolution; what clamps return is kept in a list, if there is one."""
    result = maps
    for index, conv in enumerate(convs):
        result = conv.forward(result, maps if skip and index == len(convs) - 1 else None)
        if keep is not None and conv.ceiling is not None:  # without a clamp it is linear: nothing has to be kept
            keep.append(result)
    return result


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, convs: list[FrozenConv], skip: bool) -> Tensor:
        ctx.convs, ctx.skip, ctx.shape = convs, skip, maps.shape
        ctx.batch = _batch(maps.shape, convs, maps.element_size())
        kept: list[Tensor] = []
        result = _joined([_run(part, convs, skip, kept) for part in maps.split(ctx.batch)])
        ctx.save_for_backward(*kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        kept = iter(ctx.saved_tensors)
        if ctx.skip or ctx.convs[-1].ceiling is None:  # a clamp takes any layout, and that of a mean repeats its values
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        parts = []
        with torch.autocast("cpu", enabled=False):
            for part in gradient.split(ctx.batch):
                clamps = [None if conv.ceiling is None else Clamped(next(kept), conv.ceiling) for conv in ctx.convs]
                parts.append(_run_back(part, ctx.convs, clamps, ctx.skip, ctx.shape))
        return _joined(parts), None, None


def _run_back(
    gradient: Tensor, convs: Sequence[FrozenConv], clamps: Sequence[Clamped | None], skip: bool, shape: torch.Size
) -> Tensor:
    """Gradient for maps of a shape, but for its first number, from that of the last result."""
    if clamps[-1] is None:
        found = gradient
    else:
        result = clamps[-1].result
        found = clamps[-1].gradient(gradient, out=torch.empty_like(result))
    for conv, before in zip(convs[:0:-1], clamps[-2::-1], strict=True):
        found = conv.backward(found, before.result.shape, before=before)
    return convs[0].backward(found, (len(gradient), *shape[1:]), gradient if skip else None)


def _chain_of(block: nn.Module) -> FrozenChain | None:
    """A block of timm as a chain, or None if it has anything that a chain has not."""
    names = _BLOCKS.get(type(block).__name__)
    if names is None or getattr(block, "conv_s2d", None) is not None:
        return None
    known = {name for pair in names for name in pair}
    others = [module for name, module in block.named_children() if name not in known]
    layers = _layers(block, names)
    if layers is None or not all(_is_identity(module) for module in others):
        return None
    if block.has_skip and layers[-1][1] is not None:  # the shortcut comes behind the clamp
        return None
    return FrozenChain(block, layers, bool(block.has_skip))


def _layers(
    parent: nn.Module, names: Sequence[tuple[str, str]]
) -> list[tuple[nn.Module, float | None]] | None:  # fmt: skip
    """Convolutions and what bounds their results, or None if they cannot be a chain."""
    layers = []
    for number, (conv, norm) in enumerate(names):
        known, ceiling = _ceiling(getattr(parent, norm))
        if not known or not FrozenConv.fits(getattr(parent, conv)) or (ceiling is None and number < len(names) - 1):
            return None
        layers.append((getattr(parent, conv), ceiling))
    return layers


def _ceiling(norm: nn.Module) -> tuple[bool, float | None]:
    """Whether a folded normalisation is known, and the bound of its activation."""
    parts = [
        part for part in (norm.children() if isinstance(norm, nn.Sequential) else [norm]) if not _is_identity(part)
    ]
    if not parts:
        return True, None
    bounds = {FrozenReLU6: 6.0, nn.ReLU6: 6.0, nn.ReLU: float("inf")}
    return len(parts) == 1 and type(parts[0]) in bounds, bounds.get(type(parts[0]))


def _is_identity(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or (isinstance(module, nn.Sequential) and len(module) == 0)
