"""Command line of conversions: open, write, verify."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.backbone_options import add_backbone_settings
from core.errors import UserError

if TYPE_CHECKING:
    from converters.key_table import KeyTable
    from core.backbones import Backbone
from core.project import command


def main() -> None:
    """Converts a backbone, verifies the written file and moves it into place."""
    parser = argparse.ArgumentParser(
        description="Convert a backbone to another library's names and file, and verify that it computes the same.",
        epilog=f"example: {command('converters/convert.py')} --ckpt runs/r50 --to detectron2 --out r50.pkl",
    )
    parser.add_argument(
        "--ckpt", required=True, help="run folder, weights file of ours or of another project, or timm:NAME.TAG"
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=["detectron2", "mmseg", "torchvision", "timm", "hf"],
        help="library to write a file for; hf: a Hugging Face folder for transformers",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write (.pkl for Detectron2, a folder for hf)")
    parser.add_argument(
        "--network", default="online", choices=["online", "target"], help="network to convert (default: online)"
    )
    parser.add_argument("--arch", help="architecture, for weights that don't state it: NAME or 'NAME(key=value)'")
    add_backbone_settings(parser)
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare feature maps of the written file with the timm model's (default: yes)",
    )
    parser.add_argument("--debug", action="store_true", help="also show the traceback of a user error")
    arguments = parser.parse_args()

    from converters.destinations import is_folder, usage
    from converters.open import open_with_report
    from converters.settings.given import given_by
    from core.backbones import check_weights

    backbone, table = open_with_report(arguments.ckpt, arguments.network, arguments.arch, given=given_by(arguments))
    check_weights(backbone, "convert")
    write = _write_folder if is_folder(backbone, arguments.to) else _write_file
    write(arguments, backbone, table)
    print(f"written: {arguments.out}  (use: {usage(backbone, arguments.to, arguments.out)})")


def _write_and_verify(arguments: argparse.Namespace, backbone: Backbone, table: KeyTable, unproved: Path) -> None:
    from converters.destinations import write_for
    from converters.verification.verify import verify

    try:
        written = write_for(backbone, table, arguments.to, unproved)
        print(backbone.source)
        print(written.text())
        if arguments.verify:
            print(verify(backbone, arguments.to, unproved))
    except UserError as error:
        raise UserError(str(error).replace(str(unproved), str(arguments.out))) from None


def _write_file(arguments: argparse.Namespace, backbone: Backbone, table: KeyTable) -> None:
    """Writes beside --out: an existing file there is kept until the new one is verified."""
    out: Path = arguments.out
    unproved = out.with_name(f".{out.stem}.unproved{out.suffix}")
    try:
        _write_and_verify(arguments, backbone, table, unproved)
        os.replace(unproved, out)
    except IsADirectoryError:
        raise UserError(f"--out {out} is a folder; name a file") from None
    finally:
        unproved.unlink(missing_ok=True)


def _write_folder(arguments: argparse.Namespace, backbone: Backbone, table: KeyTable) -> None:
    """The same for a folder; one that holds something else is never replaced."""
    from core.files.atomic_folder import atomic_folder

    out: Path = arguments.out
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise UserError(f"--out {out} is a folder with other content; name a new one")
    with atomic_folder(out, is_done=lambda: False) as part:
        _write_and_verify(arguments, backbone, table, part)
