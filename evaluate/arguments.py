"""Command-line arguments that all probes share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from core.errors import UserError


def probe_parser(description: str, example: str, default: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every probe; `default` is the protocol taken where none is named."""
    parser = argparse.ArgumentParser(
        description=description, epilog=f"example: {example}   (under torchrun for several processes)"
    )
    parser.add_argument(
        "--ckpt", required=True,
        help="run folder, weights file, timm:NAME, random:CKPT (its architecture untrained) or pixels (raw pixels)",
    )  # fmt: skip
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--protocol", default=default, help=f"a name in configs/evaluate (default {default})")
    chosen.add_argument("--config", type=Path, metavar="YAML", help="a protocol of your own")
    parser.add_argument("--network", choices=("online", "target"), default="online", help="which one (default online)")
    parser.add_argument("--arch", metavar="NAME", help="timm's name, where foreign weights don't tell their own")
    parser.add_argument("--out", type=Path, help="folder for result.json (default results/PROTOCOL/BACKBONE-seedN)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="loader processes of a rank (default %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's mistake too")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the protocol's")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """The argument of probes that take one data set."""
    parser.add_argument("--data", help="short for data.source=…: scenes, fashion-mnist, folder:ROOT, webdataset:SHARDS")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The checked arguments; `--data` has become an override."""
    arguments = parser.parse_intermixed_args()
    if getattr(arguments, "data", None):
        arguments.overrides.append(f"data.source={arguments.data}")
    if arguments.seed < 0:
        raise UserError(f"--seed must be 0 or more, not {arguments.seed}")
    if arguments.workers < 0:
        raise UserError(f"--workers must be 0 or more, not {arguments.workers}")
    return arguments
