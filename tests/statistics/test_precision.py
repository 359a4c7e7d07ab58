from __future__ import annotations

import pytest
import torch

from d2sm_plugin.statistics.precision import full_precision


def setting(device):
    """The setting that :func:`full_precision` changes: that of the library, or PyTorch's own before 2.9."""
    library = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    backend = getattr(library, "matmul", None)
    if hasattr(backend, "fp32_precision"):
        return backend.fp32_precision, "ieee"
    return torch.get_float32_matmul_precision(), "highest"


def test_products_are_exact_inside_and_as_before_behind():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        outside = setting("cpu")[0]
        with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
            actual, expected = setting("cpu")
            assert actual == expected
            assert not torch.is_autocast_enabled("cpu")
            assert (torch.rand(3, 3) @ torch.rand(3, 3)).dtype == torch.float32
        assert setting("cpu")[0] == outside
        with pytest.raises(ValueError, match="inside"), full_precision(torch.device("cpu")):
            raise ValueError("inside")
        assert setting("cpu")[0] == outside
    finally:
        torch.set_float32_matmul_precision(before)
