"""A module whose state outlives changes of device and dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Decorator of methods that change state, which is no part of a compiled graph. torch.compiler.disable imports the
#: compiler at once; torch's own spelling of it does so at the first call.
not_compiled = getattr(torch, "_disable_dynamo", torch.compiler.disable)


class StateModule(nn.Module):
    """Base of objectives that remember something between steps.

    Buffers keep their dtype when the module is cast (float64 sums must stay float64), and those named in
    ``host_buffers`` stay in main memory when it moves, so that reading them never waits for the device.
    """

    host_buffers: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StateModule:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None:
                self._buffers[name] = buffer.to(buffer.device if name in self.host_buffers else moved.device)
        return self
