"""Any kind of probe, also one without a front door of its own. `python evaluate/probe.py KIND --ckpt runs/demo`"""

from __future__ import annotations

import sys
from pathlib import Path

# In front, and instead of this folder, whose files would be importable as `common`, `probes`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.common.description import Description
from evaluate.probes.command import main

if __name__ == "__main__":
    run_entry_point(main, Description.memory_advice)
