"""Reading weight files safely and fitting them to a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.weight_files import load_file, local_file

#: Wrappers under which published checkpoints keep their tensors, in order of preference.
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "netG", "model", "net")
#: Bytes of a tensor that repeats the values of a smaller one in its file.
_MOST_REPEATED = 1 << 28


def tensor_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state, which has to be tensors alone, as weight files keep nothing else.

    Raises:
        OptionError: naming what is no tensor, such as the extra state of a module.
    """
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise OptionError(
                f"{type(network).__name__}: '{name}' of its state is a {type(value).__name__}, and weight files keep "
                f"tensors alone; register a buffer, or let get_extra_state return a tensor"
            )
    return state


def read_weights(source: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the flat state dict in a weight file, without running any code it may contain.

    Args:
        source: a path, or an http(s) URL (downloaded once into torch's hub cache).
        key: wrapper to take the tensors from (``"params_ema"``); None takes the first of :data:`WRAPPERS` that is
            there, or the file itself if it is flat. A leading ``module.`` of the names is removed.

    Raises:
        CheckpointError: when the file is missing, truncated, not a weight file, lacks ``key``, or holds NaN.
    """
    loaded = load_file(weight_file(source))
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source}: expected a state dict, found {type(loaded).__name__}")
    if key is not None:
        if key not in loaded:
            raise CheckpointError(f"{source}: no entry '{key}'; it holds {', '.join(map(str, loaded))}")
        state = loaded[key]
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{source}: the entry '{key}' is no state dict but {type(state).__name__}")
    else:
        state = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), loaded)
    tensors = named_tensors(state, str(source))
    check_finite(tensors, str(source), ())
    return tensors


def named_tensors(state: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, without a leading ``module.``.

    Raises:
        CheckpointError: when there is none, or one has no name or is sparse or quantised.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            if not isinstance(name, str):
                raise CheckpointError(f"{source}: a tensor has the key {name!r}; expected names, as of a state dict")
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise CheckpointError(f"{source}: '{name}' is no plain tensor (sparse, quantised or without values)")
            if value.nbytes > max(value.untyped_storage().nbytes(), _MOST_REPEATED):
                raise CheckpointError(f"{source}: '{name}' has {value.numel():,} values, far more than the file holds")
            tensors[name.removeprefix("module.")] = value
    if not tensors:
        raise CheckpointError(f"{source}: it holds no tensors; expected a state dict of a network")
    return tensors


def check_finite(state: Mapping[str, Tensor], source: str, parameters: Collection[str] | None = None) -> None:
    """Refuse weights that no network can work with.

    Args:
        state: tensors by name.
        source: where they come from, for the message.
        parameters: names of those that must not be infinite either; None for all. Buffers may be, such as masks of
            attention.

    Raises:
        CheckpointError: naming the source and the first tensor that holds NaN, or infinity where it must not.
    """
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        strict = parameters is None or name in parameters
        bad = ~tensor.isfinite() if strict else tensor.isnan()
        if bad.any():
            raise CheckpointError(
                f"{source}: '{name}' holds values that are no numbers ({int(bad.sum()):,} of {tensor.numel():,}); the "
                f"training that wrote it had failed: take an earlier checkpoint"
            )


def weight_file(source: str | Path) -> Path:
    """Return the path of a weight file; one with an http(s) URL is downloaded once into torch's hub cache.

    Raises:
        CheckpointError: when there is no such file, or it cannot be downloaded.
    """
    if not str(source).startswith(("http://", "https://")):
        return local_file(source)
    try:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(str(source)).path).name)
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(str(source), str(file))
    except Exception as error:  # of the address, of the network, of the hub or of torch
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{source}: cannot be downloaded ({reason}); give a local path instead") from error
    return file


def load_weights(network: nn.Module, source: str | Path, key: str | None = None, strict: bool = True) -> list[str]:
    """Load a weight file into a network.

    Published names are mapped by the network's ``convert_state_dict``; files of other kinds than torch's are read by
    its ``published_readers`` (see :mod:`d2sm_plugin.archs.interface`).

    Args:
        network: receives the tensors.
        source: path or URL.
        key: wrapper in the file, see :func:`read_weights`.
        strict: False leaves alone what does not fit, in either direction.

    Returns:
        The names of tensors that were not loaded (empty when ``strict``).

    Raises:
        CheckpointError: when the file cannot be read, holds values that are no numbers or, if ``strict``, does not fit
            the network.
    """
    reader = getattr(network, "published_readers", {}).get(Path(source).suffix.lower())
    state = read_weights(source, key) if reader is None else reader(source)
    convert = getattr(network, "convert_state_dict", None)
    if convert is not None:
        state = convert(state)
    expected = tensor_state(network)
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    wrong_shape = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    if strict and (missing or unexpected or wrong_shape):
        parts = [
            f"{len(names)} {label} (first: {names[0]})"
            for names, label in ((missing, "missing"), (unexpected, "unexpected"), (wrong_shape, "of another shape"))
            if names
        ]
        raise CheckpointError(
            f"{source}: not a checkpoint of this {type(network).__name__}; tensors: {', '.join(parts)}. Give the "
            f"checkpoint of the same architecture and the same network options"
        )
    fitting = {name: state[name] for name in expected if name in state and name not in wrong_shape}
    check_finite(fitting, str(source), {name for name, _ in network.named_parameters()})
    try:
        network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # kinds of tensors that cannot be copied, such as sparse ones
        raise CheckpointError(f"{source}: cannot be loaded ({' '.join(str(error).split())})") from error
    return sorted({*missing, *unexpected, *wrong_shape})
