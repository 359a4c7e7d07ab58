"""The published MatConvNet weights of MSCNN: two ``.mat`` files, one for each of its networks."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.matlab_files import whole_content
from d2sm_plugin.weight_files import local_file

#: End of a published file's name -> network.
_NETWORKS = {"_CL": "coarse", "_FL": "fine"}


def read_mscnn_weights(source: str | Path) -> dict[str, Tensor]:
    """Return both networks' tensors under the names of :class:`~d2sm_plugin.archs.mscnn_arch.MSCNN`.

    Args:
        source: ``MSCNNDehazing_CL.mat`` or ``MSCNNDehazing_FL.mat``; the other one is read from the same folder.

    Raises:
        CheckpointError: when one of them is missing, damaged, or holds something else.
    """
    path = local_file(source)
    if path.stem[-3:] not in _NETWORKS:
        raise CheckpointError(
            f"{path}: expected MSCNNDehazing_CL.mat or MSCNNDehazing_FL.mat, the published names, both in one folder"
        )
    tensors: dict[str, Tensor] = {}
    for ending, network in _NETWORKS.items():
        file = path.with_name(f"{path.stem[:-3]}{ending}{path.suffix}")
        for number, (weight, bias) in enumerate(_convolutions(file)):
            name = f"{network}.convs.{number}"
            tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return tensors


def _convolutions(file: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight (out, in, h, w) and bias (out,) of every layer that has some, in order."""
    for layer in _layers(file):
        names = layer.dtype.names or ()
        if "filters" not in names or "biases" not in names:
            continue
        filters, biases = np.asarray(layer["filters"]), np.asarray(layer["biases"])
        if filters.dtype.kind != "f" or biases.dtype.kind != "f" or filters.ndim not in (3, 4):
            raise CheckpointError(f"{file}: a layer's filters are {filters.dtype} {filters.shape}; {_EXPECTED}")
        # MATLAB has height, width, in, out, and drops a last axis of one.
        weight = filters.reshape(*filters.shape[:3], -1).transpose(3, 2, 0, 1)
        yield torch.tensor(weight, dtype=torch.float32), torch.tensor(biases.ravel(), dtype=torch.float32)


def _layers(file: Path) -> list[Any]:
    from scipy.io import loadmat

    try:
        content = loadmat(io.BytesIO(whole_content(file, _MOST_BYTES)), variable_names=["net"])
        return [layer[0, 0] for layer in content["net"]["layers"][0, 0].ravel()]
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}; both published files must lie in one folder") from error
    except (KeyError, IndexError, TypeError, ValueError, zlib.error) as error:
        raise CheckpointError(f"{file}: cannot be read ({str(error).splitlines()[0]}); {_EXPECTED}") from error


_MOST_BYTES = 64 << 20  # of the content; that of the published files has less than one mebibyte
_EXPECTED = "expected a MatConvNet network, download it again"
