"""The transfer table from results: rows are backbones, columns protocols. `python evaluate/table.py results`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point
from evaluate.report.published import read_published
from evaluate.report.results import read_names, read_results
from evaluate.report.texts import render
from evaluate.report.transfer_table import TransferTable, build_table


def main() -> None:
    """Reads every result.json below a folder and prints or writes the table."""
    parser = argparse.ArgumentParser(
        description="Print results side by side: rows are backbones, columns protocols; several seeds give mean ± std; "
        "published numbers join their protocols' columns. Without a folder: the published numbers alone.",
        epilog="example: python evaluate/table.py results   (FOLDER/names.yaml may give rows other names: "
        "`what the table says: name`; a row named as a published one shows its difference to it)",
    )
    parser.add_argument("folder", type=Path, nargs="?", help="folder that holds result.json files, at any depth")
    parser.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown", help="default markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument("--no-published", action="store_true", help="leave published numbers out")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's mistake too")
    arguments = parser.parse_args()
    if arguments.folder is None and arguments.no_published:
        raise UserError("without a folder the table is the published numbers, so leave --no-published out")
    table = read_table(arguments.folder, not arguments.no_published)
    if arguments.out is None:
        print(render(table, arguments.format, Path()))
        return
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(render(table, arguments.format, arguments.out.parent) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {arguments.out}: {error.strerror}; choose another --out") from None
    print(f"table: {arguments.out}")


def read_table(folder: Path | None, published: bool = True) -> TransferTable:
    """The table of the results below `folder`, beside the published numbers."""
    numbers = read_published() if published else ()
    if folder is None:
        return build_table((), numbers)
    return build_table(read_results(folder), numbers, read_names(folder))


if __name__ == "__main__":
    run_entry_point(main)
