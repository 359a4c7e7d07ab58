"""On a GPU the host waits wherever it has to know a computed value; no such operation is left in a step of the loss.

Counters of the queue are integers and stay on the host.
"""

from __future__ import annotations

import pytest
import torch
from sampler_kinds import EXTRACTOR, SAMPLERS
from torch.utils._python_dispatch import TorchDispatchMode

from d2sm_plugin.losses import D2SMLoss, QueueSampler

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "masked_select", "equal")


class Waits(TorchDispatchMode):
    """Remembers the operations whose result the host has to know."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING and args[0].is_floating_point():
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_value_is_read_after_the_first_step(sampler):
    torch.manual_seed(0)
    loss = D2SMLoss(**{"extractor": EXTRACTOR, **SAMPLERS[sampler]()}, queue=QueueSampler(24))
    reads = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        clear = torch.rand(2, 3, 128, 128, generator=generator)
        restored = (clear + 0.1 * torch.randn(clear.shape, generator=generator)).requires_grad_()
        with Waits() as waits:
            loss(restored, clear).backward()
        reads.append(waits.reads)
    assert reads[0], "the first step checks its input"
    assert reads[1:] == [[], [], []]
