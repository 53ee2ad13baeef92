"""Command-line arguments shared by all evaluations."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.backbone_options import add_backbone_settings
from core.cluster.options import add_launcher, resources_of
from core.errors import UserError
from core.project import command


class LineFormatter(argparse.HelpFormatter):
    """Wraps the lines of a description or epilog one by one; indented ones, which are commands, not at all."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(line if line[:1] == " " else super(LineFormatter, self)._fill_text(line, width, indent)
                         for line in lines)  # fmt: skip


def help_end(script: str, arguments: str, processes: str = "under torchrun for several processes") -> dict[str, Any]:
    """Keyword arguments of a parser: its help ends with an example, and how to use several `processes`."""
    epilog = f"example:\n  {command(script)} {arguments}\n{processes}: see docs/cluster.md"
    return {"epilog": epilog, "formatter_class": LineFormatter}


def evaluation_parser(description: str, example: str, default: str | None, says: str = "") -> argparse.ArgumentParser:
    """A parser with the arguments of every evaluation.

    `default`: the protocol used if none is named; None if it depends on other arguments, which `says` explains.
    """
    script, _, rest = example.removeprefix("python ").partition(" ")
    parser = argparse.ArgumentParser(description=description, **help_end(script, rest))
    parser.add_argument(
        "--ckpt",
        help="run folder, weights file, timm:NAME, random:CKPT (its architecture untrained) or pixels (raw pixels)",
    )
    parser.add_argument(
        "--init", metavar="random|timm:NAME[.TAG]",
        help="for baselines: random is the architecture of --ckpt untrained (the same as --ckpt random:CKPT); timm:…, "
        "which takes the place of --ckpt, is a model of timm, untrained without a TAG",
    )  # fmt: skip
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--protocol", default=default, help=f"a name in configs/evaluate (default {says or default})")
    chosen.add_argument("--config", type=Path, metavar="YAML", help="a protocol of your own")
    parser.add_argument(
        "--network", choices=("online", "target"), default="online", help="network to evaluate (default: online)"
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="timm's name of the architecture, for weights that do not state it"
    )
    add_backbone_settings(parser)
    parser.add_argument("--out", type=Path, help="folder for result.json (default results/PROTOCOL/BACKBONE-seedN)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="loader processes of a rank (default %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="open everything, print the plan and exit")
    parser.add_argument("--debug", action="store_true", help="also show the traceback of a user error")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the protocol's")
    add_launcher(parser)
    return parser


def add_data(
    parser: argparse.ArgumentParser,
    key: str = "data.source",
    what: str = "scenes, folder:ROOT, webdataset:SHARDS, hf:NAME, …",
) -> None:
    """Adds --data, for evaluations of one data set; `key`: the setting it stands for."""
    parser.add_argument("--data", help=f"short for {key}=…: {what}")
    parser.set_defaults(data_key=key)


def add_draw(parser: argparse.ArgumentParser, what: str = "N pictures of predictions next to the ground truth") -> None:
    """Adds --draw, for evaluations that can save example images; `what`: the images, for --help."""
    parser.add_argument(
        "--draw", type=int, default=0, metavar="N", help=f"write {what} into `pictures` next to result.json"
    )


def add_frozen(parser: argparse.ArgumentParser, section: str) -> None:
    """Adds --frozen, for evaluations that train the backbone; `section`: the part of the settings with `frozen`."""
    settings = (f"{section}.frozen=true", f"{section}.drop_path=0")
    parser.add_argument(
        "--frozen",
        action="store_const",
        const=settings,
        default=(),
        help=f"train the heads on a fixed backbone, short for {' '.join(settings)}",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The checked arguments; `--data` becomes an override, and `--init` a part of `ckpt`.

    With `--launcher` the command is submitted, and this process ends; `--dry-run` prints the plan here all the same.
    """
    arguments = parser.parse_intermixed_args(argv)
    arguments.ckpt = _start(arguments.ckpt, arguments.init)
    if getattr(arguments, "data", None):
        from core.config import Setting  # so late that --help needs no torch

        arguments.overrides.append(Setting(arguments.data_key, arguments.data))
    arguments.overrides += getattr(arguments, "frozen", ())
    for name in ("seed", "workers", "draw"):
        if getattr(arguments, name, 0) < 0:
            raise UserError(f"--{name} must be 0 or more, not {getattr(arguments, name)}")
    if (resources := resources_of(arguments)) and not arguments.dry_run:
        from core.cluster.submit import submit_this_command

        submit_this_command(resources)
        sys.exit(0)
    return arguments


def _start(ckpt: str | None, init: str | None) -> str:
    """Argument of `converters.open.open_backbone`: `--ckpt`, changed by `--init`. Raises `UserError`."""
    if init is not None and init != "random" and not init.startswith("timm:"):
        raise UserError(f"--init must be random or timm:NAME, not {init!r}; pass everything else to --ckpt")
    if init is not None and init.startswith("timm:"):
        if ckpt is not None:
            raise UserError(f"--init {init} replaces --ckpt {ckpt}; pass only one of them")
        return init
    if ckpt is None and init == "random":
        raise UserError(
            "--init random is the architecture of --ckpt untrained: pass --ckpt too, or name the architecture with "
            "--init timm:NAME"
        )
    if ckpt is None:
        raise UserError("no backbone is named; pass --ckpt (a run folder, a weights file, …) or --init timm:NAME")
    return ckpt if init is None or ckpt.startswith("random:") else f"random:{ckpt}"
