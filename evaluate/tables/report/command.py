"""Command line of the transfer table: read results, print or write the table."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.errors import UserError


def main() -> None:
    """Reads every result.json below a folder and prints or writes the table."""
    parser = argparse.ArgumentParser(
        description="Print results side by side: rows are backbones, columns protocols; several networks or "
        "seeds give mean ± std, labelled accordingly; "
        "published numbers join their protocols' columns. Without a folder: the published numbers alone.",
        epilog="example: python evaluate/table.py results   (FOLDER/names.yaml may give rows other names: "
        "`old name: new name`; a row named as a published one shows its difference to it)",
    )
    parser.add_argument("folder", type=Path, nargs="?", help="folder that holds result.json files, at any depth")
    parser.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown", help="default markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table to FILE instead of printing it")
    parser.add_argument(
        "--html", type=Path, metavar="DIR", help="also write DIR/index.html: table, curves, pictures, every result"
    )
    parser.add_argument("--no-published", action="store_true", help="leave published numbers out")
    parser.add_argument("--debug", action="store_true", help="also show the traceback of a user error")
    arguments = parser.parse_args()

    from evaluate.tables.published import read_published
    from evaluate.tables.renderers import render
    from evaluate.tables.results import read_names, read_results
    from evaluate.tables.transfer_table import build_table

    folder = arguments.folder
    if folder is None and arguments.no_published:
        raise UserError("without a folder the table is the published numbers, so leave --no-published out")
    results = [] if folder is None else read_results(folder)
    names = {} if folder is None else read_names(folder)
    table = build_table(results, () if arguments.no_published else read_published(), names)
    if arguments.out is None:
        print(render(table, arguments.format, Path()))
    else:
        _write(arguments.out, render(table, arguments.format, arguments.out.parent) + "\n")
        print(f"table: {arguments.out}")
    if arguments.html is not None:
        from evaluate.tables.report.page import write_page

        print(f"report: {write_page(table, results, arguments.html)}")


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"can't write {file}: {error.strerror}; choose another --out") from None
