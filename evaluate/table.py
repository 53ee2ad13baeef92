"""Results side by side: one row per backbone, one column per protocol. `python evaluate/table.py results`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.report.results import read_names, read_results
from evaluate.report.texts import markdown
from evaluate.report.transfer_table import build_table


def main() -> None:
    """Reads every result.json below a folder and prints the table."""
    parser = argparse.ArgumentParser(
        description="Print results side by side: rows are backbones, columns protocols; several seeds give mean ± std.",
        epilog="example: python evaluate/table.py results",
    )
    parser.add_argument("folder", type=Path, help="folder that holds result.json files, at any depth")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's mistake too")
    folder = parser.parse_args().folder
    print(markdown(build_table(read_results(folder), names=read_names(folder))))


if __name__ == "__main__":
    run_entry_point(main)
