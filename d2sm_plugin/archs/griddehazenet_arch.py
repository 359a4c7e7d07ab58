"""GridDehazeNet, a grid of dense blocks at three scales with attention where its streams meet (a row of Table 3).

Source: Liu et al., "GridDehazeNet: Attention-Based Multi-Scale Network for Image Dehazing", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import ResidualDenseBlock, check_images, conv_act
from d2sm_plugin.archs.renaming import Renaming
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, register

ROWS, COLUMNS = 3, 6
#: The first half of the columns goes down the scales, the second half comes up again.
HALF = COLUMNS // 2


class Upsample(nn.Module):
    """Step up: a transposed convolution doubles H and W, another one halves the channels, each with a ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1)

    def forward(self, feature: Tensor, size: torch.Size) -> Tensor:
        """Return (B, C/2, *size), where ``size`` is twice the input's or one less."""
        return self.conv(self.up(feature, output_size=size).relu()).relu()


@register(ARCH_REGISTRY)
class GridDehazeNet(nn.Module):
    """Grid network of three rows (scales) and six columns; every node weights its two streams channel by channel.

    The published network has 958,051 parameters. Images of any height and width are taken.

    Args:
        num_feat: channels of the first row; every further row has twice as many. The published network has 16.
        growth: channels that each layer of a dense block adds.
        num_layers: layers of a dense block.

    Raises:
        OptionError: for a number below 1.
    """

    inputs = ("lq",)
    size_multiple = 2 ** (ROWS - 1)

    def __init__(self, num_feat: int = 16, growth: int = 16, num_layers: int = 4) -> None:
        super().__init__()
        if min(num_feat, growth, num_layers) < 1:
            raise OptionError(
                f"GridDehazeNet: num_feat, growth and num_layers must be at least 1; got {num_feat}, {growth} and "
                f"{num_layers}"
            )
        widths = [num_feat * 2**row for row in range(ROWS)]

        def block(row: int) -> ResidualDenseBlock:
            return ResidualDenseBlock(widths[row], growth, num_layers)

        self.head = nn.Sequential(nn.Conv2d(3, num_feat, 3, padding=1), block(0))
        #: Keys "row_column" name the node that is left; of ``up``, the one that is reached.
        self.along = nn.ModuleDict({f"{i}_{j}": block(i) for i in range(ROWS) for j in range(COLUMNS - 1)})
        self.down = nn.ModuleDict(
            {
                f"{i}_{j}": nn.Sequential(conv_act(widths[i], widths[i], stride=2), conv_act(widths[i], widths[i + 1]))
                for i in range(ROWS - 1)
                for j in range(HALF)
            }
        )
        self.up = nn.ModuleDict(
            {f"{i}_{j}": Upsample(widths[i + 1]) for i in range(ROWS - 1) for j in range(HALF, COLUMNS)}
        )
        #: Weights of the stream along the row and of the one across rows, for every node and channel; some are unused.
        self.attention = nn.Parameter(torch.ones(ROWS, COLUMNS, 2, widths[-1]))
        self.tail = nn.Sequential(block(0), nn.Conv2d(num_feat, 3, 3, padding=1), nn.ReLU())

    def forward(self, lq: Tensor) -> Tensor:
        """Remove haze.

        Args:
            lq: hazy images (B, 3, H, W), RGB, [0, 1].

        Returns:
            Restored images (B, 3, H, W), at least 0, not clamped above.

        Raises:
            ShapeError: for images that do not have three channels.
        """
        check_images(lq, 3, "GridDehazeNet")
        column = [self.head(2 * lq - 1)]  # features of every row, one column after the other
        for row in range(ROWS - 1):
            column.append(self.down[f"{row}_0"](column[row]))
        for j in range(1, HALF):
            column = self._downwards(column, j)
        for j in range(HALF, COLUMNS):
            column = self._upwards(column, j)
        return self.tail(column[0])

    def _downwards(self, before: list[Tensor], j: int) -> list[Tensor]:
        column = [self.along[f"0_{j - 1}"](before[0])]
        for row in range(1, ROWS):
            across = self.down[f"{row - 1}_{j}"](column[row - 1])
            column.append(self._meet(row, j, before[row], across))
        return column

    def _upwards(self, before: list[Tensor], j: int) -> list[Tensor]:
        column = [self.along[f"{ROWS - 1}_{j - 1}"](before[-1])]
        for row in reversed(range(ROWS - 1)):
            across = self.up[f"{row}_{j}"](column[0], before[row].shape[-2:])
            column.insert(0, self._meet(row, j, before[row], across))
        return column

    def _meet(self, row: int, j: int, left: Tensor, across: Tensor) -> Tensor:
        weights = self.attention[row, j, :, : left.shape[1], None, None]
        return weights[0] * self.along[f"{row}_{j - 1}"](left) + weights[1] * across

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensor names of the published network to ours; others stay as they are."""
        return _NAMES.tensors(state)


#: Published name -> ours.
_NAMES = Renaming(
    (r"^coefficient$", "attention"),
    (r"^conv_in\.", "head.0."),
    (r"^rdb_in\.", "head.1."),
    (r"^rdb_out\.", "tail.0."),
    (r"^conv_out\.", "tail.1."),
    (r"^rdb_module\.", "along."),
    (r"^downsample_module\.(\d_\d)\.conv1\.", r"down.\1.0.0."),
    (r"^downsample_module\.(\d_\d)\.conv2\.", r"down.\1.1.0."),
    (r"^upsample_module\.(\d_\d)\.deconv\.", r"up.\1.up."),
    (r"^upsample_module\.", "up."),
    (r"\.residual_dense_layers\.(\d+)\.conv\.", r".layers.\1."),
    (r"\.conv_1x1\.", ".merge."),
)
