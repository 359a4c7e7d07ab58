"""The command line of training: ``d2sm train -opt train_ffdnet_d2sm``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.command_line import run_parser
from d2sm_plugin.pipeline.distributed import start_processes, stop_processes
from d2sm_plugin.pipeline.launchers import enter_launcher
from d2sm_plugin.pipeline.training_run import TrainingRun

_DEBUG_FREQ = 8  # validation and checkpoints of --debug, as in BasicSR


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; see ``--help``."""
    train(argv)
    return 0


def train(argv: Sequence[str] | None = None) -> bool:
    """Train as the command line says; returns False when the training was asked to stop before its end."""
    parser = run_parser("Train a restoration network with the objectives of an option file.", "train:total_iter=100")
    parser.add_argument("--auto_resume", action="store_true", help="continue the run of that name where it stopped")
    parser.add_argument(
        "--debug", action="store_true", help="validate and save every 8 steps, log every step, show tracebacks"
    )
    args = parser.parse_args(argv)
    enter_launcher(args.launcher)
    options = read_options(args.opt, is_train=True, force=args.force_yml)
    if args.debug:
        options = for_debugging(options)
    options |= start_processes(args.launcher, options["num_gpu"], args.device)
    try:
        return TrainingRun(options, args.opt, args.auto_resume).train()
    finally:
        stop_processes()


def for_debugging(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with every step logged and frequent validation and checkpoints, under ``debug_NAME``."""
    changed = deepcopy(dict(options))
    if not changed["name"].startswith("debug"):
        changed["name"] = f"debug_{changed['name']}"
    changed["val"]["val_freq"] = _DEBUG_FREQ
    changed["logger"] |= {"print_freq": 1, "save_checkpoint_freq": _DEBUG_FREQ}
    return changed
