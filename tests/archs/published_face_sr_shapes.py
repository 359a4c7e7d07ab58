"""Tensor names and shapes of published face super-resolution networks, by layer table; and their formula weights."""

from __future__ import annotations

from published_face_shapes import face_state, linear, norm
from published_shapes import Shapes, conv
from torch import Tensor


def bare(name: str, before: int, after: int, kernel: int = 3) -> Shapes:
    """A convolution without bias."""
    return {f"{name}.weight": (after, before, kernel, kernel)}


def numbered_sequence(part: str, layers: dict[int, tuple]) -> Shapes:
    """Layers of a sequence by number: the kind of layer, then its arguments."""
    return {key: shape for n, (kind, *sizes) in layers.items() for key, shape in kind(f"{part}.{n}", *sizes).items()}


def rdn(stages: int = 3) -> Shapes:
    shapes = conv("sfe1", 3, 64) | conv("sfe2", 64, 64) | conv("output", 64, 3)
    for block in range(16):
        for layer in range(8):
            shapes |= conv(f"rdbs.{block}.layers.{layer}.conv", 64 + 64 * layer, 64)
        shapes |= conv(f"rdbs.{block}.lff", 576, 64, 1)
    shapes |= conv("gff.0", 1024, 64, 1) | conv("gff.1", 64, 64)
    for stage in range(stages):
        shapes |= conv(f"upscale.{2 * stage}", 64, 256)
    return shapes


def _residual(name: str, channels: int) -> Shapes:
    shapes: Shapes = {}
    for place in (1, 5):
        shapes |= bare(f"{name}.conv_block.{place}", channels, channels)
        shapes |= norm(f"{name}.conv_block.{place + 1}", channels)
    return shapes


def _preactivation(name: str, before: int, after: int) -> Shapes:
    half, shapes = after // 2, {}
    for place, (inside, outside, kernel) in ((0, (before, half, 1)), (3, (half, half, 3)), (6, (half, after, 1))):
        shapes |= norm(f"{name}.convBlock.{place}", inside)
        shapes |= conv(f"{name}.convBlock.{place + 2}", inside, outside, kernel)
    return shapes | (conv(f"{name}.skipConv", before, after, 1) if before != after else {})


def _hourglass(name: str) -> Shapes:
    shapes = _preactivation(f"{name}.res_center", 128, 128)
    for level in range(1, 4):
        for way in range(1, 4):
            shapes |= _preactivation(f"{name}.res{level}_{way}", 128, 128)
    return shapes


def fsrnet() -> Shapes:
    """Names of cydiachen/FSRNET_pytorch."""
    shapes = numbered_sequence(
        "coarse_SR_Encoder",
        {1: (bare, 3, 64), 2: (norm, 64), **dict.fromkeys((4, 5, 6), (_residual, 64)), 8: (bare, 64, 3)},
    )
    shapes |= numbered_sequence(
        "fine_SR_Encoder",
        {0: (bare, 3, 64), 1: (norm, 64), **dict.fromkeys(range(3, 15), (_residual, 64)), 16: (bare, 64, 64)},
    )
    shapes |= numbered_sequence(
        "prior_Estimation_Network",
        {0: (bare, 3, 64, 7), 1: (norm, 64), 3: (_preactivation, 64, 128), 4: (_residual, 128), 5: (_residual, 128),
         6: (_hourglass,), 7: (_hourglass,)},
    )  # fmt: skip
    return shapes | numbered_sequence(
        "fine_SR_Decoder",
        {0: (bare, 192, 64), 1: (norm, 64), 3: (bare, 64, 64), 4: (norm, 64),
         **dict.fromkeys((6, 7, 8), (_residual, 64)), 10: (bare, 64, 3)},
    )  # fmt: skip


def fsrnet_by_the_other_port(shapes: Shapes, heatmaps: int, parsing: int) -> dict[str, str]:
    """Name in cydiachen/FSRNET_pytorch, or of a head -> name in cs-giung/FSRNet-pytorch."""
    parts = {
        "coarse_SR_Encoder": ("csr_net", {"1": "conv1.1", "2": "conv1.2", "8": "conv2.1"}, 4),
        "fine_SR_Encoder": ("fsr_enc", {"0": "conv1.0", "1": "conv1.1", "16": "conv2.1"}, 3),
        "prior_Estimation_Network": (
            "pre_net", {"0": "conv1.0", "1": "conv1.1", "6": "hg_blocks.0", "7": "hg_blocks.1"}, 3,
        ),
        "fine_SR_Decoder": (
            "fsr_dec", {"0": "conv1.0", "1": "conv1.1", "3": "deconv1.0", "4": "deconv1.1", "10": "conv2.1"}, 6,
        ),
    }  # fmt: skip
    names = {}
    for name in shapes:
        part, index, rest = name.split(".", 2)
        other, places, first = parts[part]
        place = places.get(index) or f"res_blocks.{int(index) - first}"
        names[name] = f"{other}.{place}.{rest.replace('conv_block', 'layers')}"
    return names | {
        f"head.{kind}": f"prior_{kind}" for kind, count in (("conv1", heatmaps), ("conv2", parsing)) if count
    }


def fsrgan_discriminator() -> Shapes:
    shapes, place = {}, 0
    for before, after in ((3, 64), (64, 128), (128, 256), (256, 512)):
        for inside in (before, after):
            shapes |= conv(f"model.{place}", inside, after)
            if inside != 3:
                shapes |= norm(f"model.{place + 1}", after)
                place += 1
            place += 2
    return shapes | conv(f"model.{place}", 512, 1)


def equalised(name: str, before: int, after: int) -> Shapes:
    return {f"{name}.conv.weight_orig": (after, before, 3, 3), f"{name}.conv.bias": (after,)}


def pfsr() -> Shapes:
    shapes = conv("step1.0", 3, 512) | norm("step1.1", 512)
    for step, before, first in ((1, 512, 3), (2, 256, 0), (3, 128, 0)):
        for place in (0, 3):
            shapes |= equalised(f"step{step}.{first}.conv.{place}", before, before)
            shapes |= norm(f"step{step}.{first}.conv.{place + 1}", before)
        shapes |= {f"step{step}.{first + 1}.weight": (before, before // 2, 4, 4)}
        shapes |= {f"step{step}.{first + 1}.bias": (before // 2,)} | norm(f"step{step}.{first + 2}", before // 2)
        shapes |= conv(f"to_rgb.{step - 1}", before // 2, 3, 1)
    return shapes


def pfsr_discriminator() -> Shapes:
    shapes = equalised("equal_conv", 513, 512) | linear("linear", 512, 2048) | linear("linear2", 2048, 1)
    for step, before in ((1, 256), (2, 128), (3, 64)):
        shapes |= conv(f"from_rgb.{step - 1}", 3, before, 1)
        shapes |= equalised(f"step{step}.0.conv.0", before, 2 * before)
        shapes |= equalised(f"step{step}.0.conv.2", 2 * before, 2 * before)
    return shapes


def equalised_state(shapes: Shapes) -> dict[str, Tensor]:
    """Formula weights that keep the variance of features after the scaling of equalised convolutions."""
    state = face_state(shapes)
    for name in state:
        if name.endswith(".weight_orig"):
            state[name] = state[name] * (state[name][0].numel() / 2) ** 0.5
    return state


def softened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """FSRNet's formula weights with smaller last convolutions, so that tanh does not end at -1 and 1."""
    ends = ("Encoder.16.weight", "Decoder.10.weight", "enc.conv2.1.weight", "dec.conv2.1.weight")
    return {name: value * 0.1 if name.endswith(ends) else value for name, value in state.items()}
