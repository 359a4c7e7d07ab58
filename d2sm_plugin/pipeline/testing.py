"""Testing a trained network: ``d2sm test -opt test_ffdnet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.build import build_model
from d2sm_plugin.pipeline.command_line import run_parser
from d2sm_plugin.pipeline.distributed import on_first_rank, start_processes, stop_processes
from d2sm_plugin.pipeline.experiment import Folder, versions
from d2sm_plugin.pipeline.image_records import RECORDS, write_records
from d2sm_plugin.pipeline.launchers import enter_launcher
from d2sm_plugin.pipeline.loaders import build_evaluation_loaders
from d2sm_plugin.pipeline.metrics_file import MetricsFile, Results
from d2sm_plugin.pipeline.report import result_table
from d2sm_plugin.pipeline.run_log import log_to_file, log_traceback, run_log
from d2sm_plugin.pipeline.validation import Evaluator


def main(argv: Sequence[str] | None = None) -> int:
    """Test as the command line says; see ``--help``."""
    parser = run_parser("Restore and measure the test sets of an option file.", "val:tile=512")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    enter_launcher(args.launcher)
    options = read_options(args.opt, is_train=False, force=args.force_yml)
    options |= start_processes(args.launcher, options["num_gpu"], args.device)
    try:
        run_test(options, args.opt)
    finally:
        stop_processes()
    return 0


def run_test(options: Mapping[str, Any], option_file: str) -> Results:
    """Restore every image of every test set, measure, and write pictures, a table and two CSV files.

    Args:
        options: validated options with the entries of :func:`start_processes`.
        option_file: kept with the results.

    Returns:
        Name of the set -> (number of images, metric -> mean).
    """
    folder = Folder(options["path"]["results_root"], options["name"])

    def make_folder() -> None:
        folder.start(option_file, options, resume=False)
        log_to_file(folder.path, "test", options["name"])

    with run_log(options["rank"] == 0) as logger, closing(folder):
        try:
            datasets = options["datasets"]
            loaders = build_evaluation_loaders(datasets, ("test", "val"), options["rank"], options["world_size"])
            model = build_model(options)
            evaluator = Evaluator(options, loaders, folder.visualization, True, model.device)
            evaluator.try_sets(model)
            on_first_rank(make_folder)
            for line in (versions(), *options["notes"]):
                logger.info(line)
            if not options["path"]["pretrain_network_g"] and next(model.net_g.parameters(), None) is not None:
                logger.warning("path.pretrain_network_g is not given: the network's weights are random.")
            results = evaluator.run(model, 0)
            on_first_rank(lambda: MetricsFile(folder.metrics_file).add(0, results))
            on_first_rank(lambda: write_records(folder.path / RECORDS, evaluator.by_image, evaluator.class_names))
        except Exception as error:
            log_traceback(error)
            raise
        logger.info("Results:\n" + result_table(results))
        logger.info(f"Pictures, metrics.csv and by_image.csv: {folder.path}")
    return results
