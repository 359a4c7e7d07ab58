"""Which of oneDNN's operations for frozen or small factors this build of PyTorch can run."""

from __future__ import annotations

import platform

import torch


def offers(*operators: str) -> bool:
    """Whether all of these float32 operations of ``torch.ops.mkldnn`` exist and are made for this processor.

    They are those that ``torch.compile`` generates calls of, not a public interface, so that a release of PyTorch may
    be without them; whoever uses one needs another way.
    """
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and all(hasattr(torch.ops.mkldnn, operator) for operator in operators)
    )
