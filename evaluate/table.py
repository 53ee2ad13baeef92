"""The transfer table from results: rows are backbones, columns protocols. `python evaluate/table.py results`"""

from __future__ import annotations

import sys
from pathlib import Path

# In place of this folder, whose files would be importable under names of other packages.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.tables.report.command import main

if __name__ == "__main__":
    run_entry_point(main)
