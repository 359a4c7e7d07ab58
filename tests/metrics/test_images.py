from __future__ import annotations

import numpy as np
import pytest
import torch

from d2sm_plugin.errors import DataError
from d2sm_plugin.metrics.images import check_numbers, to_uint8


def test_images_are_clipped_and_rounded():
    image = torch.tensor([-1.0, 0.5, 2.0, 1 / 255]).view(1, 2, 2)
    assert to_uint8(image)[..., 0].tolist() == [[0, 128], [255, 1]]
    assert to_uint8(image).shape == (2, 2, 3) and to_uint8(image).dtype == np.uint8


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_never_a_picture(value):
    images = torch.rand(3, 3, 4, 4)
    images[1, 2, 3, 3] = value
    with pytest.raises(DataError, match="b: it holds values that are no numbers"):
        check_numbers(images, ["a", "b", "c"])
    with pytest.raises(DataError, match="no numbers"):
        to_uint8(images[1])
    check_numbers(images[::2], ["a", "c"])
