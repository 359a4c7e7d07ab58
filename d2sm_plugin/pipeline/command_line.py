"""Arguments that training and testing share."""

from __future__ import annotations

from d2sm_plugin.arguments import Parser
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.pipeline.launchers import LAUNCHERS


def run_parser(description: str, example: str) -> Parser:
    """Return a parser of ``-opt``, ``--launcher``, ``--device``, ``--force_yml`` and ``--custom-import``.

    Args:
        description: of the command.
        example: of an option that is overridden.
    """
    parser = Parser(description=description)
    add_custom_import(parser)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file, or name of a shipped one")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default="none", help="pytorch: under torchrun; slurm: as tasks of srun"
    )
    parser.add_argument(
        "--device",
        help="cpu, cuda, cuda:1, xpu, mps, or auto: CUDA's GPU where there is one (default: as num_gpu says)",
    )
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=c", help=f"override options, e.g. {example}")
    return parser
