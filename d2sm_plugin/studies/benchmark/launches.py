"""Launches of a step: the operations that a GPU would be given, counted without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2sm_plugin.losses import D2SMLoss, QueueSampler, SpatialSampler, semantic_divergence

# Memory without values, and other names for the same values.
_FREE = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias"}
)


HEADERS = ("step, forward and backward", "launches")
_NEW, _DIMENSION = 32, 4096


class LaunchCount(TorchDispatchMode):
    """Context that counts operations on tensors which are not in main memory; those of the device "meta" serve.

    Views and allocations are no launches, everything else is one: what autograd and the dispatcher leave of PyTorch's
    operators. A number in main memory that an operation takes is one more: most operations copy it, and wait for the
    GPU. A library may make more of an operator, such as a product that is summed up in parts.

    Attributes:
        operations: how often each one was called, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        """Number of launches."""
        return self.operations.total()

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count an operation and let it happen."""
        output = func(*args, **(kwargs or {}))
        of_arguments = _devices((args, kwargs))
        name = func.overloadpacket.__name__
        if name not in _FREE and not _is_view(func) and (of_arguments | _devices(output)) - {"cpu"}:
            self.operations[name] += 1
            if len(of_arguments) > 1 and name != "copy_":
                self.operations["copy from main memory"] += 1
        return output


def _devices(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


def _is_view(func: OpOverload) -> bool:
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


class _Maps(nn.Module):
    """An extractor without layers, so that what is counted is the objective's own."""

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images


def launch_counts() -> dict[str, int]:
    """Launches of steps of the divergence, without the extractor's; the gradient of the value is given."""
    return {
        "queue of 256, 32 new samples": queue_launches(QueueSampler(256)),
        "queue of 4,096, 32 new samples": queue_launches(QueueSampler(4096)),
        "the same with bfloat16 storage": queue_launches(QueueSampler(4096, "bfloat16")),
        "256 samples, no queue": _launches(semantic_divergence, _features(256)),
        "64 positions of each of 4 maps": _positions_launches(),
    }


def queue_launches(queue: QueueSampler, new: int = _NEW) -> int:
    """Launches of a step with so many new samples once the queue is full."""
    queue(*_features(queue.size))
    return _launches(queue, _features(new), warm_up=2)


def _positions_launches() -> int:
    loss = D2SMLoss(_Maps(), patches=SpatialSampler(64))
    loss._check._range_is_known = True  # to know it, values would be read
    restored, clear = (torch.empty(4, 112, 12, 12, device="meta") for _ in range(2))
    return _launches(loss, (restored.requires_grad_(), clear))


def _features(count: int) -> tuple[Tensor, Tensor]:
    restored, clear = (torch.empty(count, _DIMENSION, device="meta") for _ in range(2))
    return restored.requires_grad_(), clear


def _launches(loss: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, Tensor], warm_up: int = 1) -> int:
    seed = torch.ones((), device="meta")
    for _ in range(warm_up):
        torch.autograd.grad(loss(*pair), pair[0], seed)
    with LaunchCount() as count:
        torch.autograd.grad(loss(*pair), pair[0], seed)
    return count.launches
