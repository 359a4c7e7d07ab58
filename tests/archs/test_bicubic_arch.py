from __future__ import annotations

import pytest
import torch
from basicsr.utils.matlab_functions import imresize

from d2sm_plugin.archs.bicubic_arch import BicubicUpsampling
from d2sm_plugin.errors import ShapeError


@pytest.mark.parametrize(("scale", "height", "width"), [(8, 16, 16), (4, 5, 9), (2, 2, 3)])
def test_equals_imresize(scale, height, width):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([imresize(image, scale) for image in images])
    torch.testing.assert_close(BicubicUpsampling(scale)(images), expected, atol=2e-6, rtol=0)


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"\(B, C, h, w\) of at least 2 pixels a side, got \(1, 3, 1, 4\)"):
        BicubicUpsampling()(torch.zeros(1, 3, 1, 4))
