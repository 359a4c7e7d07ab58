"""A batch in a queue: its rows take the places of the oldest ones, for good or for the time of one comparison."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from d2sm_plugin.losses.gather import Share
from d2sm_plugin.statistics.columns import Columns, Joint, Signs, Span, side_by_side
from d2sm_plugin.statistics.unit_rows import Rows


class Queue(Protocol):
    """Ring of pairs of unit rows, with the sums over them: what an arrival needs of a queue."""

    size: int
    restored: Tensor
    difference: Tensor
    sums: Tensor
    pointer: Tensor
    filled: Tensor

    def __len__(self) -> int:
        """Number of samples it holds."""
        ...

    def ring(self, start: int, count: int) -> list[Span]:
        """Places of ``count`` samples from ``start`` on, around the end."""
        ...

    def allocate(self, rows: Rows) -> None:
        """Make the memory for rows like these, if there is none yet."""
        ...

    def signs(self, new: int, leaving: int, partners: int, device: torch.device) -> Signs:
        """Factors of the terms, kept from step to step."""
        ...


class QueueArrival:
    """Context in which a queue's rows are those that count once a batch has come.

    The rows are in the queue's own memory, so that no other copy of it is made. When the context ends they are as they
    were before, unless :meth:`keep` has been called: a step that fails leaves the queue as it was.

    Args:
        queue: the queue.
        new: rows of the batch (n, D), n at most the size of the queue.
        share: what this process compares, where several hold the same queue and batch.

    Attributes:
        columns: rows that are paired with all others: of the batch, and those that leave.
        partners: all samples (m, D), those of the batch among them.
        staying: the parts of the partners that were there before.
    """

    def __init__(self, queue: Queue, new: Rows, share: Share | None) -> None:
        self.queue, self.new = queue, new
        count, held = len(new.restored), len(queue)
        self.places = queue.ring(int(queue.pointer), count)
        leaving = max(0, held + count - queue.size)
        self.free = queue.ring(int(queue.pointer), count - leaving)
        self.taken = queue.ring(int(queue.pointer) + count - leaving, leaving)
        oldest = int(queue.pointer) - held
        self._old = queue.ring(oldest + leaving, held - leaving)
        self._total, self._share = held + count - leaving, share
        self._kept = False

    @property
    def staying(self) -> list[Rows]:
        """Rows that were there before and stay."""
        return [self._stored.part(*span) for span in self._old]

    def __enter__(self) -> QueueArrival:
        queue, new = self.queue, self.new
        self._buffers = queue.restored, queue.difference
        queue.allocate(new)
        self._stored = Rows(queue.restored, queue.difference)
        of_batch, gone = new, [self._stored.part(*span).to(new.restored.dtype) for span in self.taken]
        places, history, joint = self.places, queue.sums[:, : self._total] if len(queue) else None, None
        if self._share is not None:
            gone = [Rows(*map(torch.cat, zip(*gone, strict=True)))] if gone else []  # a copy of all: they are put back
            self._before = gone
            of_batch, places = new.part(*self._share.rows), self._share.places(self.places)
            gone = [rows.part(*self._share.part_of(len(rows.restored))) for rows in gone]
            joint = Joint(self.places, self._share.add)
            history = history if self._share.rank == 0 else None
        features, count = side_by_side([of_batch, *gone]), len(of_batch.restored)
        width = features.shape[1] // 2
        if self._share is None:
            self._before = [Rows(features[:, count:width].T, features[:, width + count :].T)]
        signs = queue.signs(count, width - count, self._total, features.device)
        self.columns = Columns(features, places, signs, history, joint)
        self.partners = self._stored.part(0, self._total)
        self._write(self.places, new)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._kept:
            return
        self.queue.restored, self.queue.difference = self._buffers  # made for these rows, if there were none
        for before in self._before:
            self._write(self.taken, before)
        for span in self.free:
            for rows in self._stored.part(*span):
                rows.zero_()

    def keep(self, sums: Tensor) -> None:
        """Leave the batch in the queue, with the sums (4, m) of all rows."""
        self._kept = True
        queue = self.queue
        if self._total == queue.size:
            queue.sums = sums
        else:
            queue.sums[:, : self._total] = sums
        queue.pointer.fill_((int(queue.pointer) + len(self.new.restored)) % queue.size)
        queue.filled.fill_(self._total)

    def _write(self, spans: list[Span], rows: Rows) -> None:
        """Put rows into places of the queue."""
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        first = 0
        for start, stop in spans:
            targets += self._stored.part(start, stop)
            sources += rows.part(first, first + stop - start)
            first += stop - start
        if targets:
            torch._foreach_copy_(targets, sources)
