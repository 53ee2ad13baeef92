"""Command line of conversions: open, write, verify."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from core.errors import UserError
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
        choices=["detectron2", "mmseg", "torchvision", "timm"],
        help="library to write a file for",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write (.pkl for Detectron2)")
    parser.add_argument(
        "--network", default="online", choices=["online", "target"], help="network to convert (default: online)"
    )
    parser.add_argument("--arch", help="architecture, for weights that don't state it: NAME or 'NAME(key=value)'")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare feature maps of the written file with the timm model's (default: yes)",
    )
    parser.add_argument("--debug", action="store_true", help="also show the traceback of a user error")
    arguments = parser.parse_args()

    from converters.destinations import usage, write_for
    from converters.open import open_with_report
    from converters.verification.verify import verify

    backbone, table = open_with_report(arguments.ckpt, arguments.network, arguments.arch)
    # An existing file at --out is kept until the new one is verified.
    unproved = arguments.out.with_name(f".{arguments.out.stem}.unproved{arguments.out.suffix}")
    try:
        written = write_for(backbone, table, arguments.to, unproved)
        print(backbone.source)
        print(written.text())
        if arguments.verify:
            print(verify(backbone, arguments.to, unproved))
        os.replace(unproved, arguments.out)
    except UserError as error:
        raise UserError(str(error).replace(str(unproved), str(arguments.out))) from None
    except IsADirectoryError:
        raise UserError(f"--out {arguments.out} is a folder; name a file") from None
    finally:
        unproved.unlink(missing_ok=True)
    print(f"written: {arguments.out}  (use: {usage(backbone, arguments.to, arguments.out)})")
