"""Interface between networks and the rest of the package: inputs and named outputs.

A network may say by optional class attributes what BasicSR's networks leave unsaid:

``inputs``
    names of the batch entries that ``forward`` takes, in order; ``("lq",)`` where absent.
    FFDNet has ``("lq", "sigma")``.
``size_multiple``
    H and W for which the network works without padding; tiles start on multiples of it.
``receptive_radius``
    how many pixels away an output pixel sees; tiles with that much context give what the whole image gives.
``convert_state_dict``
    static method that maps the tensor names of published checkpoints to the network's own.
``published_readers``
    file ending -> function that reads a published file of another kind than torch's and returns its tensors by name;
    GFN has ``{".caffemodel": read_caffemodel}``.

``forward`` returns the restored images, or a mapping of named outputs with at least the key ``"restored"``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from d2sm_plugin.errors import OptionError, ShapeError

_MOST_PARTS = 10_000  # tensors and layers of a network: large ones have a few thousand

#: Context on each inner side of a tile, in pixels, for networks that do not declare ``receptive_radius``.
DEFAULT_RADIUS = 64
#: Grid on which tiles start, in pixels, for networks that do not declare ``size_multiple``.
DEFAULT_MULTIPLE = 16


def size_multiple(network: nn.Module | None) -> int:
    """Return the grid on which tiles for a network start, in pixels."""
    return getattr(network, "size_multiple", DEFAULT_MULTIPLE)


def receptive_radius(network: nn.Module | None) -> int:
    """Return how much context tiles for a network need on each inner side, in pixels."""
    return getattr(network, "receptive_radius", DEFAULT_RADIUS)


class Growing(Protocol):
    """Network that grows in stages while it is trained."""

    num_stages: int

    def grow(self, stage: int, fade: float) -> None:
        """Set the stage in use (1 to ``num_stages``) and its share in the output (0 to 1)."""


def grows(network: object) -> TypeGuard[Growing]:
    """Tell if a network grows in stages."""
    return callable(getattr(network, "grow", None))


def network_inputs(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the batch entries that ``network.forward`` takes, in order."""
    return tuple(getattr(network, "inputs", ("lq",)))


def gather_inputs(network: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the batch entries that ``network.forward`` takes.

    Raises:
        ShapeError: when the batch lacks one of them; the message names the network and the entry.
    """
    names = network_inputs(network)
    missing = [name for name in names if name not in batch]
    if missing:
        raise ShapeError(
            f"{type(network).__name__} takes {', '.join(names)}, but the dataset gives no {', '.join(missing)} "
            f"(it gives {', '.join(sorted(batch))})"
        )
    return tuple(batch[name] for name in names)


def named_outputs(outputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's outputs by name; a bare tensor is ``{"restored": tensor}``."""
    if isinstance(outputs, Tensor):
        return {"restored": outputs}
    if "restored" not in outputs:
        raise ShapeError(f"a network that returns named outputs must name one 'restored'; got {', '.join(outputs)}")
    return dict(outputs)


@contextmanager
def bounded_parts(where: str) -> Iterator[None]:
    """Context in which a network is built that somebody else's file may describe.

    Args:
        where: what describes it, for the message.

    Raises:
        OptionError: for more tensors and layers than can be meant, before they fill the memory.
    """
    number = 0

    def count(*_: object) -> None:
        nonlocal number
        number += 1
        if number > _MOST_PARTS:
            raise OptionError(f"{where}: more than {_MOST_PARTS:,} tensors and layers; lower the number of layers")

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
