"""Arguments of command lines that name a network and its weights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from torch import nn

from d2sm_plugin.custom_imports import import_from
from d2sm_plugin.errors import OptionError
from d2sm_plugin.inference.described_network import build_network, network_block
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.safe_yaml import parse_yaml


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`network_of` reads."""
    naming = parser.add_mutually_exclusive_group()
    naming.add_argument(
        "-n",
        "--network",
        help="name of the network, for example FFDNet; weights of a training by this package say it themselves",
    )
    naming.add_argument("-opt", "--opt", help="option file whose block network_g describes the network")
    parser.add_argument("--network-args", nargs="+", default=[], metavar="NAME=VALUE", help="arguments of the network")
    parser.add_argument(
        "-c", "--weights", "--checkpoint", dest="checkpoint", required=True, help="weights: a path or a URL"
    )
    parser.add_argument("--param-key", help="entry of the checkpoint to use, for example params_ema")


def network_of(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network that the command line names, or else the weight file, with its weights, and its option block.

    Raises:
        OptionError: for an unknown network or argument.
        CheckpointError: for a checkpoint that does not fit.
    """
    if arguments.opt is not None:
        content = read_option_file(arguments.opt).content
        import_from(content)
        block = content.get("network_g")
        where = f"{arguments.opt}: network_g"
        if not isinstance(block, dict):
            raise OptionError(f"{where}: expected the block that describes the network, as in a training's option file")
    else:
        named = None if arguments.network is None else {"type": arguments.network}
        remedy = "name it with --network, or give a training's option file with --opt"
        block = network_block(arguments.checkpoint, named, remedy)
        where = f"{arguments.checkpoint}: network" if named is None else "--network"
    block = {**block, **_further_arguments(arguments.network_args)}
    return build_network(block, arguments.checkpoint, arguments.param_key, where), block


def _further_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    arguments = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise OptionError(f"--network-args {pair}: expected name=value, for example num_feat=64")
        arguments[name] = parse_yaml(value, f"--network-args {name}")
    return arguments
