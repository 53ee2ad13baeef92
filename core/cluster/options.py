"""Options that submit a command to Slurm instead of running it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import UserError

_OPTIONS = ("nodes", "gpus", "cpus", "partition", "account", "qos", "time")
GPUS = 8
"""Processes of a host where the command line names no number."""
_TIME = "24:00:00"


@dataclass(frozen=True)
class Resources:
    """What a job asks for."""

    nodes: int = 1
    """Hosts."""
    processes: int = GPUS
    """Processes of a host."""
    gpus: int = GPUS
    """GPUs of a host: one for each process, or none."""
    cpus: int | None = None
    """Cores of each process; None: the cluster's default."""
    minutes: int = 24 * 60
    """Time after which the job is stopped, and queued again."""
    partition: str | None = None
    """Slurm's partition; None: its default. So are the next two."""
    account: str | None = None
    """Slurm's account."""
    qos: str | None = None
    """Slurm's quality of service."""
    local: bool = False
    """True to run on this host, by submitit's local executor."""

    @property
    def world_size(self) -> int:
        """Processes on all hosts."""
        return self.nodes * self.processes


def add_launcher(parser: argparse.ArgumentParser, local: bool = True) -> None:
    """Adds `--launcher` and what it takes. `local`: also the choice to run on this host."""
    group = parser.add_argument_group("cluster", "submit the command as a job instead of running it: docs/cluster.md")
    group.add_argument(
        "--launcher", choices=("submitit", "submitit-local")[: 1 + local],
        help="submitit: as a job of Slurm" + ("; submitit-local: in the background on this host" if local else ""),
    )  # fmt: skip
    group.add_argument("--nodes", type=int, metavar="N", help="hosts (default 1)")
    group.add_argument("--gpus", type=int, metavar="N", help=f"processes of a host, a GPU each (default {GPUS})")
    group.add_argument("--cpus", type=int, metavar="N", help="cores of each process (default: the cluster's)")
    for name in ("partition", "account", "qos"):
        group.add_argument(f"--{name}", metavar="NAME", help=f"Slurm's {name}")
    group.add_argument("--time", metavar="H:M:S", help=f"time until it is queued again (default {_TIME})")


def resources_of(arguments: argparse.Namespace) -> Resources | None:
    """What the command line asks for; None without `--launcher`. Raises `UserError` for what doesn't fit together."""
    given = [name for name in _OPTIONS if getattr(arguments, name) is not None]
    if arguments.launcher is None:
        # Commands for torchrun are made for a number of GPUs, too.
        if unused := [name for name in given if name != "gpus" or not getattr(arguments, "emit", False)]:
            raise UserError(f"--{unused[0]} belongs to --launcher submitit; give that too, or leave it out")
        return None
    for name in ("nodes", "gpus", "cpus"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise UserError(f"--{name} must be 1 or more, not {number}")
    local, processes = arguments.launcher == "submitit-local", arguments.gpus or GPUS
    if local and (arguments.nodes or 1) > 1:
        raise UserError(f"--nodes {arguments.nodes} needs --launcher submitit; submitit-local has this host alone")
    return Resources(
        arguments.nodes or 1, processes, 0 if arguments.device == "cpu" else processes, arguments.cpus,
        minutes_of(arguments.time or _TIME), arguments.partition, arguments.account, arguments.qos, local,
    )  # fmt: skip


def minutes_of(text: str) -> int:
    """Minutes, rounded up, of a time as Slurm takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises `UserError`."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise UserError(f"--time must look like 24:00:00 or 3-00:00:00, not {text!r}")
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 60:
        raise UserError(f"--time {text} is less than a minute")
    return -(-total // 60)


def without_launcher(argv: Sequence[str]) -> list[str]:
    """The command line that the job gets: without what `add_launcher` adds."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_launcher(parser)
    return parser.parse_known_args(argv)[1]
