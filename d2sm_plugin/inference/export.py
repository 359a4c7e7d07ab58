"""The command line of ``d2sm export``: a network as an ONNX file, held against ONNX Runtime before it is kept."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from d2sm_plugin.archs.interface import named_outputs, network_inputs, size_multiple
from d2sm_plugin.arguments import Parser, number, out_file
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.errors import D2SMError, OptionError
from d2sm_plugin.extras import import_extra
from d2sm_plugin.files import write_whole
from d2sm_plugin.inference.network_arguments import add_network_arguments, network_of
from d2sm_plugin.weight_files import ABOUT, Description

#: Batch, and height and width in multiples of what the network needs, at which the file is held against the network.
_CHECKED = ((1, 3, 4), (2, 5, 3), (3, 4, 7))
#: Differences of values in [0, 1] up to which a graph is taken for the network's own arithmetic.
_SAME = 1e-3
#: Least side of these images, in pixels, before it is rounded up to a multiple.
_UNIT = 17


@dataclass(frozen=True)
class Check:
    """Comparison of an ONNX file with its network.

    Attributes:
        size: (B, C, H, W) of the images.
        difference: largest absolute difference of a value of the result, for images in [0, 1].
    """

    size: tuple[int, ...]
    difference: float


class _Restoring(nn.Module):
    """A network with one output, the restored images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *images: Tensor) -> Tensor:
        return named_outputs(self.network(*images))["restored"]


def main(argv: Sequence[str] | None = None) -> int:
    """Export a network as the command line says; see ``--help``.

    Returns:
        0.

    Raises:
        D2SMError: for arguments, weights or networks that cannot be used, and where ONNX Runtime differs from the
            network by more than ``--tolerance``; no file is written then.
    """
    arguments = _parser().parse_args(argv)
    if arguments.out.suffix != ".onnx":
        raise OptionError(f"--out {arguments.out}: expected a name that ends with .onnx")
    network, block = network_of(arguments)
    data, multiple = to_onnx(network, Description(block))
    checks = compare(network, data, multiple)
    for check in checks:
        tqdm.write(f"{'x'.join(map(str, check.size)):>14}: largest difference from the network {check.difference:.1e}")
    worst = max(check.difference for check in checks)
    if not worst <= arguments.tolerance:
        raise OptionError(
            f"{arguments.out}: not written, as ONNX Runtime differs from the network by {worst:.1e}; raise --tolerance "
            f"({arguments.tolerance:g}) if that is good enough"
        )
    write_whole(arguments.out, data)
    need = f"height and width must be multiples of {multiple}" if multiple > 1 else "any height and width"
    tqdm.write(
        f"{arguments.out}: {', '.join(network_inputs(network))} -> restored; any batch, {need}; {len(data):,} bytes"
    )
    return 0


def to_onnx(network: nn.Module, about: Description | None = None) -> tuple[bytes, int]:
    """Return a network as the content of an ONNX file, and the multiple of pixels that sides of images must be of.

    The graph takes ``lq`` (B, C, H, W) in [0, 1], and ``sigma`` (B, 1, 1, 1), the noise level divided by 255, where the
    network is told it; it gives ``restored`` (B, C, s*H, s*W). Batch, height and width are free. Networks that take any
    size pad inside the graph; for others, pad and crop the images outside to the multiple that is returned.

    Args:
        network: in evaluation mode, on the CPU.
        about: its description, kept in the file's metadata together with the multiple.

    Raises:
        OptionError: for a network that takes more than images and noise levels, or that torch cannot export.
        DependencyError: when the packages for it are missing.
    """
    import_extra("onnx", "exporting networks")
    import_extra("onnxscript", "exporting networks")
    import_extra("onnxruntime", "exporting networks")
    names, label = network_inputs(network), type(network).__name__
    if not set(names) <= {"lq", "sigma"}:
        raise OptionError(f"{label} takes {', '.join(names)}; only networks that take lq and sigma are exported")
    multiples = [max(2, size_multiple(network))]
    if _takes(network, (37, 51)):
        multiples.insert(0, 1)  # what torch or ONNX Runtime cannot do, such as some padding, is left out then
    failure: Exception | None = None
    for multiple in multiples:
        try:
            data = _program(network, multiple, about)
            if multiple == multiples[-1] or max(c.difference for c in compare(network, data, multiple)) < _SAME:
                return data, multiple
        except Exception as error:  # noqa: BLE001  # torch raises many kinds; all mean the same here
            failure = error
    lines = [line for line in str(failure).splitlines() if line.strip()] or [type(failure).__name__]
    raise OptionError(f"{label}: torch cannot export it ({lines[-1].strip()[:200]})") from failure


def _program(network: nn.Module, multiple: int, about: Description | None) -> bytes:
    """Export a network for images whose sides are multiples of a number."""
    dynamic = torch.export.Dim.DYNAMIC
    sides = (dynamic, dynamic)
    if multiple > 1:
        sides = (multiple * torch.export.Dim("rows", min=1), multiple * torch.export.Dim("columns", min=1))
    shapes = {"lq": {0: dynamic, 2: sides[0], 3: sides[1]}, "sigma": {0: dynamic}}
    side = multiple * -(-64 // multiple)
    images = _inputs(network, 2, side, side + multiple)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _Restoring(network),
            tuple(images.values()),
            dynamo=True,
            input_names=list(images),
            output_names=["restored"],
            dynamic_shapes=(tuple(shapes[name] for name in images),),
            verbose=False,
        )
    assert program is not None  # as the call asks for one
    metadata = {"size_multiple": str(multiple)} | ({} if about is None else {ABOUT: about.to_json()})
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def compare(network: nn.Module, data: bytes, multiple: int) -> list[Check]:
    """Return how far ONNX Runtime's results are from the network's, for random images of three sizes.

    Args:
        network: that was exported.
        data: content of the ONNX file.
        multiple: of pixels, as :func:`to_onnx` returned it.

    Raises:
        OptionError: when ONNX Runtime refuses the file, or a size.
        DependencyError: when ONNX Runtime is missing.
    """
    runtime = import_extra("onnxruntime", "checking an exported network")
    checks = []
    try:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for batch, *sides in _CHECKED:
            height, width = (multiple * -(-_UNIT * side // multiple) for side in sides)
            images = _inputs(network, batch, height, width)
            (restored,) = session.run(["restored"], {name: value.numpy() for name, value in images.items()})
            with torch.no_grad():
                expected = _Restoring(network)(*images.values())
            difference = (torch.from_numpy(restored) - expected).abs().max().item()
            checks.append(Check(tuple(images["lq"].shape), difference))
    except Exception as error:
        if isinstance(error, D2SMError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise OptionError(f"{type(network).__name__}: ONNX Runtime cannot run what was exported ({reason})") from error
    return checks


def _inputs(network: nn.Module, batch: int, height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(height)
    images = torch.rand(batch, getattr(network, "num_in_ch", 3), height, width, generator=generator)
    inputs = {"lq": images}
    if "sigma" in network_inputs(network):
        inputs["sigma"] = torch.rand(batch, 1, 1, 1, generator=generator) / 4
    return inputs


def _takes(network: nn.Module, size: tuple[int, int]) -> bool:
    """Tell whether a network restores images of a size without help."""
    try:
        with torch.no_grad():
            images = _inputs(network, 1, *size)
            restored = _Restoring(network)(*images.values())
    except Exception:  # noqa: BLE001  # that it fails is what was asked
        return False
    return restored.shape[-1] * size[0] == restored.shape[-2] * size[1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context in which torch's exporter keeps its remarks to itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Write a network with its weights as an ONNX file, once ONNX Runtime gives what the network gives."
    )
    add_custom_import(parser)
    add_network_arguments(parser)
    parser.add_argument("-o", "--out", type=out_file, default="model.onnx", help="file to write (default: %(default)s)")
    parser.add_argument(
        "--tolerance",
        type=number(0, above=True),
        default=1e-4,
        help="largest difference of a value from the network's, for images in [0, 1] (default: %(default)s)",
    )
    return parser
