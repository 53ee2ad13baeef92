"""Pre-trains a backbone. `python pretrain/run.py --config configs/pretrain/demo_scenes.yaml --out runs/demo`"""

from __future__ import annotations

import sys
from pathlib import Path

# In place of this folder, whose files would be importable as `config`, `state`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from pretrain.command import main

if __name__ == "__main__":
    run_entry_point(main, "lower batch, use more processes, or set compute.precision=bf16")
