"""Memorised historic sampling: the divergence over the last q samples at the price of the new ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.losses.functional import attach_gradient, check_features, check_options, computing_dtype
from d2sm_plugin.losses.state_module import StateModule
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.dense_divergence import match_densely
from d2sm_plugin.statistics.precision import full_precision
from d2sm_plugin.statistics.row_divergence import (
    History,
    Matched,
    Rows,
    match_statistics,
    spans,
    through_norm,
    unit_rows,
)
from d2sm_plugin.statistics.row_sums import KINDS, LEAST_SAMPLES, SUMS

DTYPES = ("float32", "bfloat16")


@register(LOSS_REGISTRY)
class QueueSampler(StateModule):
    """A first-in, first-out queue of paired features, and the divergence over it (paper, eq. 7 and 8).

    The new batch is part of the q samples. Only samples really met count: there is no random start, and a queue that
    has not filled yet is simply smaller. Batches may have any size; of one larger than the queue the newest q rows
    count, with a warning. The gradient with respect to the new restored features is that of the whole divergence: it
    includes the rows of old samples, whose columns of the new batch change. Old samples get none.

    One step takes O(N q D) time and O(q D) memory for N new rows. Nothing is written in eval mode or without
    gradients: the new rows then take part as they would in training, and the queue stays as it is. A new row that is
    not finite makes the value NaN, and enters the queue as a pair of zero features, which say nothing about anything,
    so that one bad step does not spoil the q samples after it.

    Args:
        size: q, the number of samples, at least 3.
        dtype: ``"float32"``, or ``"bfloat16"``, which stores features in half the memory. They are rounded as they
            enter, for their own batch too; sums and products stay in full precision. See docs/speed.md for the
            agreement.

    Attributes:
        restored: unit features (q, D) of restored samples; row i of every buffer belongs to one sample.
        difference: what they differ by from those of the clear samples (q, D).
        sums: the four sums over the pairs of each row, (4, q), float64; see
            :mod:`d2sm_plugin.statistics.row_divergence`.
        pointer: row that the next sample goes to.
        filled: number of samples held.

    Raises:
        OptionError: when ``size`` is not an integer of at least 3, or for an unknown ``dtype``.

    >>> queue = QueueSampler(size=6)
    >>> clear = torch.eye(4)
    >>> restored = (clear + 0.1).requires_grad_()
    >>> queue(restored, clear).backward()
    >>> len(queue)
    4
    >>> value = queue(restored, clear)  # the oldest two leave
    >>> len(queue), value.item() > 0
    (6, True)
    """

    host_buffers = ("pointer", "filled")
    restored: Tensor
    difference: Tensor
    sums: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: Count, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        super().__init__()
        if not isinstance(size, int) or isinstance(size, bool) or size < LEAST_SAMPLES:
            raise OptionError(f"QueueSampler.size: expected an integer of at least {LEAST_SAMPLES}, got {size!r}")
        if dtype not in DTYPES:
            raise OptionError(f"QueueSampler.dtype: '{dtype}' is unknown{suggest(dtype, DTYPES)}")
        self.size, self.dtype = size, dtype
        self._warned = False
        self.register_buffer("restored", torch.empty(0, 0))
        self.register_buffer("difference", torch.empty(0, 0))
        self.register_buffer("sums", torch.zeros(SUMS, size, dtype=torch.float64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Number of samples held."""
        return int(self.filled)

    @property
    def clear(self) -> Tensor:
        """Unit features (q, D) of clear samples."""
        return self.restored - self.difference

    def reset(self) -> None:
        """Forget all samples, and the feature dimension with them."""
        self.restored = self.restored.new_empty(0, 0)
        self.difference = self.difference.new_empty(0, 0)
        self.sums.zero_()
        self.pointer.zero_()
        self.filled.zero_()

    def forward(self, restored: Tensor, clear: Tensor, kind: str = "kl", reduction: str = "sum") -> Tensor:
        """Divergence over the queue once it has taken in a batch.

        Args:
            restored: features (N, D) of restored samples.
            clear: features (N, D) of the clear samples, row by row; constants.
            kind: as in :func:`d2sm_plugin.losses.functional.semantic_divergence`. One without a row form takes time
                and memory of a q x q matrix.
            reduction: ``"sum"`` over the samples in the queue, or ``"mean"``.

        Returns:
            A scalar, float64 for float64 features and float32 for all others.

        Raises:
            OptionError: for an unknown ``kind`` or ``reduction``.
            ShapeError: when the features do not pair or have another dimension than those in the queue.
        """
        check_options(kind, reduction)
        check_features(restored, clear)
        if len(restored) > self.size:
            self._warn_of_overflow(len(restored))
            restored, clear = restored[-self.size :], clear[-self.size :]
        grad_enabled = torch.is_grad_enabled()
        with torch.no_grad(), full_precision(restored.device):
            dtype = computing_dtype(restored)
            self._follow(restored)
            unit, norm = unit_rows(restored.to(dtype), clear.to(dtype))
            finite = (unit.restored.sum(1) + unit.difference.sum(1)).isfinite()
            new = self._as_stored(Rows(*(torch.where(finite[:, None], part, 0.0) for part in unit)))
            writes = self.training and grad_enabled
            parts = self._staying(len(new.restored))
            matched = self._match(new, parts, kind, grad_enabled and restored.requires_grad)
            rows = len(new.restored) + sum(stop - start for start, stop in parts)
            scale = 1.0 if reduction == "sum" else 1.0 / max(1, rows)
            value = torch.where(finite.all(), matched.value * scale, torch.nan).to(dtype)
            if writes:
                self._take_in(new, matched, parts)
            if matched.gradient is None:
                return value
            gradient = through_norm(matched.gradient * scale, unit.restored, norm)
        return attach_gradient(restored, value, gradient)

    def _as_stored(self, rows: Rows) -> Rows:
        """Rows rounded to the dtype they are stored in, in that of computation."""
        if self.dtype == "bfloat16":
            return rows.to(torch.bfloat16).to(rows.restored.dtype)
        return rows if self.restored.numel() == 0 else rows.to(self.restored.dtype)

    def _warn_of_overflow(self, arriving: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"QueueSampler: of a batch of {arriving} samples only the newest {self.size} count; set size above "
                f"{arriving}, or take fewer samples (smaller batch, max_patches)",
                stacklevel=3,
            )

    def _match(self, new: Rows, parts: list[tuple[int, int]], kind: str, with_gradient: bool) -> Matched:
        stored = Rows(self.restored, self.difference)
        leaving = [
            stored.part(start, stop).to(new.restored.dtype)
            for start, stop in self._ring(self._oldest(), self._overflow(len(new.restored)))
        ]
        gone = Rows(*map(torch.cat, zip(*leaving, strict=True))) if leaving else new.part(0, 0)
        history = [History(stored.part(start, stop), self.sums[:, start:stop]) for start, stop in parts]
        if kind in KINDS:
            return match_statistics(new, history, gone, kind, with_gradient)
        # The sums are kept all the same: they do not depend on the kind.
        matched = match_statistics(new, history, gone, "kl", with_gradient=False)
        value, gradient = match_densely(new, [part.rows for part in history], kind, with_gradient)
        return matched._replace(value=value, gradient=gradient)

    def _take_in(self, new: Rows, matched: Matched, parts: list[tuple[int, int]]) -> None:
        count, pointer = len(new.restored), int(self.pointer)
        if self.restored.numel() == 0:
            stored = torch.bfloat16 if self.dtype == "bfloat16" else new.restored.dtype
            self.restored = new.restored.new_zeros(self.size, new.restored.shape[1], dtype=stored)
            self.difference = torch.zeros_like(self.restored)
        for (start, stop), sums in zip(parts, matched.history_sums, strict=True):
            self.sums[:, start:stop] = sums
        done = 0
        for start, stop in self._ring(pointer, count):
            taken = slice(done, done + stop - start)
            self.restored[start:stop] = new.restored[taken]
            self.difference[start:stop] = new.difference[taken]
            self.sums[:, start:stop] = matched.sums[:, taken]
            done = taken.stop
        self.pointer.fill_((pointer + count) % self.size)
        self.filled.fill_(min(self.size, len(self) + count))

    def _overflow(self, arriving: int) -> int:
        """Number of samples that leave when ``arriving`` ones come."""
        return max(0, len(self) + arriving - self.size)

    def _oldest(self) -> int:
        return (int(self.pointer) - len(self)) % self.size

    def _staying(self, arriving: int) -> list[tuple[int, int]]:
        """Row spans of the samples that stay when ``arriving`` ones come."""
        leaving = self._overflow(arriving)
        pieces = self._ring(self._oldest() + leaving, len(self) - leaving)
        return [span for start, stop in pieces for span in spans(start, stop, arriving + leaving)]

    def _ring(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """Spans of ``count`` rows from ``start`` on, around the end of the buffers."""
        start %= self.size
        first = min(count, self.size - start)
        if first:
            yield start, start + first
        if count > first:
            yield 0, count - first

    def _follow(self, features: Tensor) -> None:
        """Check that the queue can take ``features`` and bring it to their device."""
        if self.restored.numel() and self.restored.shape[1] != features.shape[1]:
            raise ShapeError(
                f"features of dimension {features.shape[1]} given to a queue that holds features of dimension "
                f"{self.restored.shape[1]}; use images of one size and one extractor layer, or call reset()"
            )
        for name in ("restored", "difference", "sums"):
            setattr(self, name, getattr(self, name).to(features.device))

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take over the shape and dtype of stored features, which a queue that has met none does not know yet."""
        sums = state_dict.get(f"{prefix}sums")
        if sums is not None and sums.shape != self.sums.shape:
            error_msgs.append(
                f"{prefix or 'queue'}: the checkpoint holds a queue of size {sums.shape[-1]}, this one has size "
                f"{self.size}; set the size to {sums.shape[-1]}, or start without the checkpoint's objectives"
            )
            return
        for name in ("restored", "difference"):
            stored = state_dict.get(f"{prefix}{name}")
            if stored is not None:
                setattr(self, name, torch.zeros_like(stored, device=self.sums.device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
