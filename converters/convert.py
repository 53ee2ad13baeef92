"""Converts a backbone for another library. `python converters/convert.py --ckpt IN --to detectron2 --out r50.pkl`"""

from __future__ import annotations

import sys
from pathlib import Path

# In place of this folder, whose files would be importable under names of other packages.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from converters.command import main
from core.errors import run_entry_point

if __name__ == "__main__":
    run_entry_point(main)
