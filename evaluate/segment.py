"""Semantic segmentation on top of a backbone: `python evaluate/segment.py --ckpt runs/demo`."""

from __future__ import annotations

import sys
from pathlib import Path

# In front, and instead of this folder, whose files would be importable as `knn`, `table`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.segmentation.probe import PROBE


def main() -> None:
    """Parses the command line, then trains and measures."""
    from evaluate.segmentation.arguments import parse_arguments

    arguments = parse_arguments()  # before the slow imports: --help is quick
    from evaluate.segmentation.run import run

    run(arguments)


if __name__ == "__main__":
    run_entry_point(main, PROBE.memory_advice)
