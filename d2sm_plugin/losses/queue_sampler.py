"""Memorised historic sampling: the divergence over the last q samples at the price of the new ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from d2sm_plugin.argument_types import Count
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.losses.functional import (
    attach_gradient,
    check_features,
    check_options,
    computing_dtype,
    sound_value,
    to_features,
)
from d2sm_plugin.losses.gather import Share
from d2sm_plugin.losses.queue_arrival import QueueArrival
from d2sm_plugin.losses.state_module import StateModule
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.columns import Signs, Span
from d2sm_plugin.statistics.dense_divergence import match_densely
from d2sm_plugin.statistics.precision import full_precision
from d2sm_plugin.statistics.row_divergence import Matched, match_statistics
from d2sm_plugin.statistics.row_sums import KINDS, LEAST_SAMPLES, SUMS
from d2sm_plugin.statistics.unit_rows import Rows, unit_rows

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
        self._signs: tuple[tuple[Any, ...], Signs] | None = None
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

    def forward(
        self, restored: Tensor, clear: Tensor, kind: str = "kl", reduction: str = "sum", share: Share | None = None
    ) -> Tensor:
        """Divergence over the queue once it has taken in a batch.

        Args:
            restored: features (N, D) of restored samples.
            clear: features (N, D) of the clear samples, row by row; constants.
            kind: as in :func:`d2sm_plugin.losses.functional.semantic_divergence`. One without a row form takes time
                and memory of a q x q matrix.
            reduction: ``"sum"`` over the samples in the queue, or ``"mean"``.
            share: rows of this process among those of all that hold the same queue and batch; the others' rows get
                no gradient then. Kinds without a row form do not share their work. None for a single process.

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
            cut = len(restored) - self.size
            restored, clear = restored[cut:], clear[cut:]
            share = share.behind(cut) if share is not None else None
        grad_enabled = torch.is_grad_enabled()
        with torch.no_grad(), full_precision(restored.device):
            dtype = computing_dtype(restored)
            self._follow(restored)
            unit, norms = unit_rows(restored.to(dtype), clear.to(dtype))
            new = self._as_stored(unit)
            with QueueArrival(self, new, share) as arrival:
                matched = self._match(arrival, kind, grad_enabled and restored.requires_grad)
                if self.training and grad_enabled:
                    arrival.keep(matched.sums)
            scale = 1.0 if reduction == "sum" else 1.0 / max(1, len(arrival.partners.restored))
            value = sound_value(matched.value, norms, scale, dtype)
            if matched.gradient is None:
                return value
            shared = share if kind in KINDS else None
            gradient = to_features(matched.gradient.to(dtype), unit.restored, norms.restored, scale, shared)
        return attach_gradient(restored, value, gradient)

    def allocate(self, rows: Rows) -> None:
        """Make the memory for q rows like these, if there is none yet."""
        if self.restored.numel() == 0:
            stored = torch.bfloat16 if self.dtype == "bfloat16" else rows.restored.dtype
            self.restored = rows.restored.new_zeros(self.size, rows.restored.shape[1], dtype=stored)
            self.difference = torch.zeros_like(self.restored)

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

    def _match(self, arrival: QueueArrival, kind: str, with_gradient: bool) -> Matched:
        if kind in KINDS:
            return match_statistics(arrival.columns, arrival.partners, kind, with_gradient)
        # The sums are kept all the same: they do not depend on the kind.
        matched = match_statistics(arrival.columns, arrival.partners, "kl", with_gradient=False)
        value, gradient = match_densely(arrival.new, arrival.staying, kind, with_gradient)
        return matched._replace(value=value, gradient=gradient)

    def signs(self, *wanted: Any) -> Signs:
        """Return :meth:`Signs.of` these arguments, made anew only where they change."""
        if self._signs is None or self._signs[0] != wanted:
            self._signs = wanted, Signs.of(*wanted)
        return self._signs[1]

    def ring(self, start: int, count: int) -> list[Span]:
        """Spans of ``count`` rows from ``start`` on, around the end of the buffers."""
        start %= self.size
        first = min(count, self.size - start)
        return [span for span in ((start, start + first), (0, count - first)) if span[0] < span[1]]

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
