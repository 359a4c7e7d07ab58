"""The console command ``d2sm``, also as ``python -m d2sm_plugin``; ``tools/*.py`` run its subcommands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from d2sm_plugin.arguments import Parser
from d2sm_plugin.cli import run_tool
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.version import __version__


class Command(NamedTuple):
    """A subcommand: the module whose ``main`` it runs, and the line that describes it."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("pipeline.train", "train a restoration network with the objectives of an option file"),
    "test": Command("pipeline.testing", "restore and measure the test sets of an option file"),
    "restore": Command("inference.inference", "restore your own pictures with a trained network"),
    "compare": Command("studies.compare.compare", "train and test every variant of a suite, side by side"),
    "report": Command("studies.report.report", "one HTML file about a run or a suite, with sliders and failure cases"),
    "export": Command("inference.export", "write a network as an ONNX file, checked against ONNX Runtime"),
    "prepare": Command("data.prepare.prepare_data", "turn a data set into LMDBs"),
    "quality": Command("studies.evaluation.restoration_eval", "PSNR and SSIM of several restored image sets"),
    "seg-eval": Command("studies.evaluation.seg_eval", "MIoU: how well a segmentation network reads restored images"),
    "divergence": Command("studies.evaluation.divergence_eval", "semantic divergence on unseen images"),
    "tsne": Command("studies.evaluation.tsne_plot", "t-SNE of semantic features, with scores of how they mix"),
    "faces": Command("studies.evaluation.face_eval", "PSNR, SSIM and landmark NRMSE of restored faces"),
    "benchmark": Command("studies.benchmark.benchmark", "time, memory and arithmetic of the package's parts"),
    "demo": Command("demo.run", "the main job on generated scenes, from data to a table"),
    "install-host": Command("install_host", "build and install BasicSR, which training and most commands need"),
    "options": Command("options.options", "list, show and copy the option files that ship with the package"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``d2sm`` with these arguments, by default those of the process, and leave the process."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and not arguments[0].startswith("-"):
        run(arguments[0], arguments[1:], f"d2sm {arguments[0]}")
    parser = Parser(
        prog="d2sm",
        usage="d2sm [-h] [--version] COMMAND ...",
        description="Deep Semantic Statistics Matching: train, judge and use image restoration networks.",
        epilog="\n".join(
            ["commands (d2sm COMMAND --help says more):"]
            + [f"  {name:<14}{command.summary}" for name, command in COMMANDS.items()]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"d2sm {__version__}")

    def end(_: Sequence[str] | None) -> None:
        parser.parse_args(arguments or ["--help"])

    run_tool(end)


def run(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run a subcommand and leave the process; its module is imported now, so that ``d2sm --help`` waits for nothing.

    Args:
        name: one of :data:`COMMANDS`.
        arguments: of the subcommand; None takes those of the process.
        program: name of the program in its help and in the logs of runs; None keeps that of the process.
    """
    if program is not None:
        sys.argv = [program, *(arguments or [])]

    def imported_main(argv: Sequence[str] | None) -> int | None:
        if name not in COMMANDS:
            raise OptionError(f"d2sm: no command '{name}'{suggest(name, COMMANDS)}")
        return importlib.import_module(f"d2sm_plugin.{COMMANDS[name].module}").main(argv)

    run_tool(imported_main)


if __name__ == "__main__":
    main()
