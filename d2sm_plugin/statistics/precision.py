"""Computing in full precision whatever the surroundings say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Within this block autocast is off and float32 products are neither TF32 nor bfloat16 inside.

    A user may have allowed either for the sake of the networks; the statistics of features that are nearly equal
    would drown in it.
    """
    if device.type == "meta":  # tensors without values have no precision
        yield
        return
    with torch.autocast(device.type, enabled=False):
        library = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
        backend: Any = getattr(library, "matmul", None)
        if hasattr(backend, "fp32_precision"):
            before = backend.fp32_precision
            backend.fp32_precision = "ieee"
            try:
                yield
            finally:
                backend.fp32_precision = before
        else:  # torch before 2.9
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
