"""Table of kinds of checkpoint: each is made, opened, and its features compared with those of its own code.

`python tests/kinds/kinds.py` prints the table; `--write` puts it into docs/checkpoints.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.kinds import of_layouts, of_libraries, of_mmpretrain, of_transformers
from tests.kinds.base import Kind, Outcome, measure

KINDS: tuple[Kind, ...] = (*of_layouts.KINDS, *of_mmpretrain.KINDS, *of_transformers.KINDS, *of_libraries.KINDS)
PAGE = ROOT / "docs" / "checkpoints.md"
START, END = "<!-- kinds: made by `make kinds` -->", "<!-- end of kinds -->"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all kinds, or those whose name contains a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only kinds whose name contains one of these")
    parser.add_argument("--write", action="store_true", help="put the table into docs/checkpoints.md")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    chosen = [kind for kind in KINDS if not arguments.words or any(word in kind.name for word in arguments.words)]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = []
        for number, kind in enumerate(chosen):
            outcomes.append(measure(kind, Path(folder) / str(number)))
            print(f"{number + 1}/{len(chosen)} {kind.name}: {outcomes[-1].difference}", file=sys.stderr, flush=True)
    table = table_of(outcomes)
    print(table)
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        PAGE.write_text(f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table_of(outcomes: Sequence[Outcome]) -> str:
    """Markdown table with a sentence on the number that opens."""
    opened = [outcome for outcome in outcomes if outcome.difference is not None]
    lines = [
        f"{len(opened)} of {len(outcomes)} kinds open.",
        "",
        "| kind | opens as | compared with | largest difference |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        difference = "–" if outcome.difference is None else f"{outcome.difference:.1g}"
        lines.append(f"| {outcome.kind.name} | {outcome.opens_as} | {outcome.kind.code} | {difference} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
