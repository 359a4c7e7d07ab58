"""Images that are made while they are scored: noisy ones, and what a network restores from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from d2sm_plugin.data.noise import noise_for_key
from d2sm_plugin.metrics.images import to_uint8
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.registry import build
from d2sm_plugin.studies.evaluation.methods import Image, Method
from d2sm_plugin.weights import load_weights

CLEAN = "clean"


def noisy_and_restored(
    clean: Method, option_file: str, checkpoint: str, sigmas: Sequence[float], device: str
) -> list[Method]:
    """Return rows for the clean images and, for every noise level, for the noisy and the restored ones.

    The noise of an image follows from its key, so that figures repeat. The network gets the noisy floats, neither
    clipped nor rounded, as in validation; what is scored is rounded to 8 bit.

    Args:
        clean: the clean images.
        option_file: its ``network_g`` is built; ``val.tile`` and ``val.tile_overlap`` hold too.
        checkpoint: path or URL of the network's weights.
        sigmas: noise levels on the 0-255 scale.
        device: where the network runs.

    Raises:
        OptionError: when the option file cannot be used.
        CheckpointError: when the checkpoint does not fit the network.
    """
    options = read_options(option_file, is_train=False)
    network: nn.Module = build(ARCH_REGISTRY, options["network_g"], "network_g")
    load_weights(network, checkpoint, key=options["path"]["param_key_g"])
    network.requires_grad_(False).to(device)
    name, tile, overlap = options["network_g"]["type"], options["val"]["tile"], options["val"]["tile_overlap"]

    def noisy(key: str, sigma: float) -> Tensor:
        image = torch.from_numpy(clean.read(key)).permute(2, 0, 1).float() / 255
        return image + noise_for_key(key, sigma, tuple(image.shape))

    def degraded(key: str, sigma: float) -> Image:
        return to_uint8(noisy(key, sigma))

    def restored(key: str, sigma: float) -> Image:
        batch = {
            "lq": noisy(key, sigma)[None].to(device),
            "sigma": torch.full((1, 1, 1, 1), sigma / 255, device=device),
        }
        return to_uint8(restore_batch(network, batch, tile, overlap)[0])

    rows = [clean]
    for sigma in sigmas:
        rows.append(_row(f"noisy {sigma:g}", clean, partial(degraded, sigma=sigma)))
        rows.append(_row(f"{name} {sigma:g}", clean, partial(restored, sigma=sigma), computed=True))
    return rows


def _row(name: str, clean: Method, read: Callable[[str], Image], computed: bool = False) -> Method:
    return Method(name, read, lambda key: f"{clean.describe(key)} ({name})", computed)
