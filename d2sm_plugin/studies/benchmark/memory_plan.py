"""Peak memory of a step, counted tensor by tensor: on the device "meta" for sizes that nothing here could run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class MemoryCount(TorchDispatchMode):
    """Context that follows how many bytes the tensors take that operations make in it.

    Memory that a library takes inside of an operation is not counted, nor what an allocator rounds up.

    Args:
        held: tensors that are there already.

    Attributes:
        bytes: taken now.
        peak: the most that were taken.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}
        for tensor in held:
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.finalize(storage, self._remove, key, size)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

    def _remove(self, key: int, size: int) -> None:
        del self._known[key]
        self.bytes -= size

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let an operation happen and count what it makes."""
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return output


class HalfLayers(TorchFunctionMode):
    """Context in which convolutions and linear layers compute in bfloat16, as under autocast, which "meta" lacks."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Convert what a layer is given."""
        if func in (torch.conv2d, torch.nn.functional.linear):
            args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(torch.bfloat16), (args, kwargs))
        return func(*args, **(kwargs or {}))


def planned_peak(step: Callable[[], object], held: Iterable[Tensor]) -> int:
    """Bytes that a step takes at its peak, ``held`` tensors included, by counting."""
    with MemoryCount(held) as count:
        step()
    return count.peak


def allocated_peak(step: Callable[[], object]) -> int:
    """Bytes that a step takes at its peak on the CPU, beyond those before it, by PyTorch's allocator.

    The profiler sees every allocation, those inside of operations too.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    kineto: Any = profile.profiler
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    taken = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        peak = max(peak, taken)
    return peak


def largest(fits: Callable[[int], bool], most: int = 1 << 14) -> int:
    """Largest number up to ``most`` that fits, 0 for none, where all smaller ones fit too."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= most and fits(middle) else (low, middle)
    return low
