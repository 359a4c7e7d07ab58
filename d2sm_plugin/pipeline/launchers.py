"""Launchers of processes: what they say in the environment, in the words of torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from d2sm_plugin.errors import OptionError

LAUNCHERS = ("none", "pytorch", "slurm")
#: Variables of torchrun, which torch's process groups read.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
#: The same as Slurm's srun gives it to each task; of several names the first that is set counts.
_SLURM = {
    "RANK": ("SLURM_PROCID",),
    "WORLD_SIZE": ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    "LOCAL_RANK": ("SLURM_LOCALID",),
    "MASTER_ADDR": ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"),
}
_FIRST_PORT, _PORTS = 20_000, 20_000


def enter_launcher(launcher: str) -> None:
    """Read what a launcher says about this process, before the options are read, which depend on the processes' number.

    Args:
        launcher: one of :data:`LAUNCHERS`. With ``slurm`` the variables of torchrun are set in the environment.

    Raises:
        OptionError: when the launcher has not started this process, or says what cannot be.
    """
    if launcher == "slurm":
        os.environ.update(slurm_environment(os.environ))
    missing = [name for name in TORCHRUN if name not in os.environ]
    if launcher == "pytorch" and missing:
        raise OptionError(
            f"--launcher pytorch: {', '.join(missing)} not set; start with "
            "torchrun --nproc_per_node=N -m d2sm_plugin train ..."
        )
    if launcher != "none":
        _check(launcher, os.environ)


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return torchrun's variables for a task of Slurm.

    ``MASTER_ADDR`` and ``MASTER_PORT`` stay where they are set. Otherwise the first node of the step is the master, and
    the port, between 20,000 and 40,000, follows from the numbers of job and step.

    Raises:
        OptionError: when a variable is missing or is no number.
    """
    read = {name: next((environment[key] for key in keys if environment.get(key)), "") for name, keys in _SLURM.items()}
    read["MASTER_ADDR"] = environment.get("MASTER_ADDR") or first_host(read["MASTER_ADDR"])
    missing = [_SLURM[name][-1] for name, value in read.items() if not value]
    if missing:
        raise OptionError(
            f"--launcher slurm: {', '.join(missing)} not set; start on a cluster of Slurm, with "
            "srun --ntasks=N d2sm train -opt ... --launcher slurm"
        )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not _is_number(read[name]):
            raise OptionError(f"--launcher slurm: {_SLURM[name][-1]}: expected a whole number, got '{read[name]}'")
    numbers = [environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    job, step = (int(number) if _is_number(number) else 0 for number in numbers)
    port = environment.get("MASTER_PORT") or str(_FIRST_PORT + (job + 7919 * step) % _PORTS)
    return read | {"MASTER_PORT": port}


def _check(launcher: str, environment: Mapping[str, str]) -> None:
    """Refuse numbers with which processes would wait for each other in vain."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not _is_number(environment[name]):
            raise OptionError(f"--launcher {launcher}: {name}: expected a whole number, got '{environment[name]}'")
    rank, size, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= size:
        raise OptionError(f"--launcher {launcher}: this is process {rank} (RANK) of only {size} (WORLD_SIZE)")
    if not 0 < port < 2**16:
        raise OptionError(f"--launcher {launcher}: MASTER_PORT: expected 1 to 65535, got {port}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def first_host(nodes: str) -> str:
    """Return the first host of a list of nodes as Slurm writes it.

    >>> first_host("gpu[007-012,20],login1")
    'gpu007'
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else "")
