"""Tensor names of FSRNet's two PyTorch ports, and what this package calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from d2sm_plugin.archs.hourglass_blocks import rename_hourglass

_LEVELS = 3


def _blocks(first: int, count: int) -> dict[str, str]:
    return {str(first + n): f"blocks.{n}" for n in range(count)}


_HEAD = {"0": "head.0", "1": "head.1"}
#: cydiachen/FSRNET_pytorch: each part is one sequence of layers; number -> ours.
_SEQUENCES = {
    "coarse_SR_Encoder": ("coarse", {"1": "head.0", "2": "head.1", **_blocks(4, 3), "8": "tail"}),
    "fine_SR_Encoder": ("encoder", {**_HEAD, **_blocks(3, 12), "16": "tail"}),
    "prior_Estimation_Network": (
        "prior",
        {**_HEAD, "3": "lift", **_blocks(4, 2), "6": "hourglasses.0", "7": "hourglasses.1"},
    ),
    "fine_SR_Decoder": ("decoder", {**_HEAD, "3": "head.3", "4": "head.4", **_blocks(6, 3), "10": "tail"}),
}
#: cs-giung/FSRNet-pytorch, tried in this order.
_PATTERNS = (
    (r"csr_net\.conv1\.1\.", "coarse.head.0."),
    (r"csr_net\.conv1\.2\.", "coarse.head.1."),
    (r"csr_net\.", "coarse."),
    (r"fsr_enc\.", "encoder."),
    (r"pre_net\.res_blocks\.0\.", "prior.lift."),
    (r"pre_net\.res_blocks\.1\.", "prior.blocks.0."),
    (r"pre_net\.res_blocks\.2\.", "prior.blocks.1."),
    (r"pre_net\.hg_blocks\.", "prior.hourglasses."),
    (r"pre_net\.", "prior."),
    (r"fsr_dec\.deconv1\.0\.", "decoder.head.3."),
    (r"fsr_dec\.deconv1\.1\.", "decoder.head.4."),
    (r"fsr_dec\.", "decoder."),
    (r"(?<=\.)conv1\.(?=\d)", "head."),
    (r"(?<=\.)conv2\.1\.", "tail."),
    (r"(?<=\.)res_blocks\.", "blocks."),
    (r"(?<=\.)layers\.", "body."),
    (r"prior_conv1\.", "heatmap_head."),
    (r"prior_conv2\.", "parsing_head."),
)
#: Inside both: the layers of a residual block, which there include the padding; hourglass blocks, by other names.
_RESIDUAL = {"1": "0", "2": "1", "5": "3", "6": "4"}


def rename_fsrnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of either port under our names; other names pass unchanged."""
    published = any(name.startswith((*_SEQUENCES, "csr_net.")) for name in state)
    if not published:
        return dict(state)
    named = {_in_part(name): value for name, value in state.items()}
    inner = {re.sub(r"\bconvBlock\.", "preact.", name).replace("skipConv.", "project."): v for name, v in named.items()}
    whole = rename_hourglass(inner, _LEVELS)
    return {_in_block(name): value for name, value in whole.items()}


def _in_part(name: str) -> str:
    part, _, rest = name.partition(".")
    if part in _SEQUENCES:
        renamed, places = _SEQUENCES[part]
        index, _, rest = rest.partition(".")
        return f"{renamed}.{places.get(index, index)}.{rest}"
    for pattern, renamed in _PATTERNS:
        name = re.sub(f"^{pattern}" if not pattern.startswith("(?<") else pattern, renamed, name)
    return name


def _in_block(name: str) -> str:
    name = re.sub(r"(?<=\.blocks\.)(\d+)\.body\.(\d)\.", lambda m: f"{m[1]}.body.{_RESIDUAL[m[2]]}.", name)
    return name.replace("preact.", "body.")
