"""Tensor names of published MSBDN checkpoints, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

#: Published names count scales by their reduction (conv2x ... conv16x) or by powers of two (fusion1 ... fusion4);
#: ours count the levels of the encoder from the finest and those of the decoder from the coarsest, from 0.
_REDUCTION_TO_LEVEL = {"2": 0, "4": 1, "8": 2, "16": 3}


def _encoder(number: str) -> str:
    return f"encoder.{int(number) - 1}"


def _decoder(number: str) -> str:
    return f"decoder.{4 - int(number)}"


#: Block names: pattern of the published prefix, and our prefix.
_PREFIXES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replace)
    for pattern, replace in (
        (r"conv_input\.conv2d\.", lambda m: "head."),
        (r"conv_output\.conv2d\.", lambda m: "tail."),
        (r"dense0\.", lambda m: "head_refine."),
        (r"dehaze\.res(\d+)\.", lambda m: f"dehaze.{m[1]}."),
        (r"conv(2|4|8|16)x\.conv2d\.", lambda m: f"encoder.{_REDUCTION_TO_LEVEL[m[1]]}.down."),
        (r"convd(2|4|8|16)x\.conv2d\.", lambda m: f"decoder.{3 - _REDUCTION_TO_LEVEL[m[1]]}.up.conv."),
        (r"dense([1-3])\.", lambda m: f"{_encoder(m[1])}.refine."),
        (r"dense_([1-4])\.", lambda m: f"{_decoder(m[1])}.refine."),
        (r"fusion([1-4])\.up_convs\.", lambda m: f"{_encoder(m[1])}.fusion.away."),
        (r"fusion([1-4])\.down_convs\.", lambda m: f"{_encoder(m[1])}.fusion.back."),
        (r"fusion_([1-4])\.down_convs\.", lambda m: f"{_decoder(m[1])}.fusion.away."),
        (r"fusion_([1-4])\.up_convs\.", lambda m: f"{_decoder(m[1])}.fusion.back."),
        # The dense blocks, which only the relaxed variant has.
        (r"conv([1-4])\.dense_layers\.(\d+)\.conv\.", lambda m: f"{_encoder(m[1])}.fusion.dense.layers.{m[2]}."),
        (r"conv([1-4])\.conv_1x1\.", lambda m: f"{_encoder(m[1])}.fusion.dense.merge."),
        (r"conv_([1-4])\.dense_layers\.(\d+)\.conv\.", lambda m: f"{_decoder(m[1])}.fusion.dense.layers.{m[2]}."),
        (r"conv_([1-4])\.conv_1x1\.", lambda m: f"{_decoder(m[1])}.fusion.dense.merge."),
    )
)
#: What differs behind the prefix.
_SUFFIXES = (
    (re.compile(r"\.(conv[12])\.conv2d\."), r".\1."),
    (re.compile(r"\.relu\.weight$"), ".act.weight"),
    (re.compile(r"\.deconv\."), ".conv."),
)


def published_to_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` under our names.

    Args:
        state: tensors of a published MSBDN-DFF-v1-1 or MSBDN-RDFF, or one of our own, which comes back as it is.
    """
    relaxed = any(name.endswith(".conv_1x1.weight") for name in state)
    return {_name_here(name, relaxed): tensor for name, tensor in state.items()}


def _name_here(name: str, relaxed: bool) -> str:
    for pattern, replace in _PREFIXES:
        match = pattern.match(name)
        if match is None:
            continue
        name = replace(match) + name[match.end() :]
        for suffix, replacement in _SUFFIXES:
            name = suffix.sub(replacement, name)
        # Relaxed fusion holds the ordinary one inside.
        return re.sub(r"\.fusion\.(away|back)\.", r".fusion.fusion.\1.", name) if relaxed else name
    return name
