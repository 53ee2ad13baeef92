"""Detection with a backbone. `python evaluate/coco.py --ckpt runs/demo`"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.detection.probe import PROBE
from evaluate.detection.run import main

if __name__ == "__main__":
    run_entry_point(main, PROBE.memory_advice)
