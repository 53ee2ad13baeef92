"""Facts about named protocols, and the page made of them. `python -m evaluate.tables.protocol_facts knn_dino`"""

from __future__ import annotations

import argparse
from pathlib import Path

from core.errors import UserError, run_entry_point


def main() -> None:
    """Prints the facts of the named protocols, or writes the page of all."""
    parser = argparse.ArgumentParser(
        description="Facts about named protocols: values, sources, departures.",
        epilog="example: python -m evaluate.tables.protocol_facts knn_dino",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="protocols to show; none: all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of all protocols to FILE")
    arguments = parser.parse_args()

    from core.files.atomic_file import write_atomically  # so late that --help needs no torch
    from evaluate.tables.protocols_page import names_with_facts, protocols_page

    known = names_with_facts()
    if unknown := sorted(set(arguments.names) - set(known)):
        raise UserError(f"no facts about a protocol {unknown[0]!r}; available: {', '.join(known)}")
    text = protocols_page(arguments.names or known)
    if arguments.write is None:
        print(text)
        return
    if arguments.names:
        raise UserError("--write writes all protocols; leave out the names")
    write_atomically(arguments.write, lambda partial: partial.write_text(text, encoding="utf-8"))
    print(f"page: {arguments.write}")


if __name__ == "__main__":
    run_entry_point(main)
