"""Linear probes: a grid of heads on a frozen backbone. `python evaluate/linear.py --ckpt runs/demo --protocol …`"""

from __future__ import annotations

import sys
from pathlib import Path

# In front, and instead of this folder, whose files would be importable as `common`, `probes`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.probes.linear.probe import PROBE
from evaluate.probes.main import probe_main


def main() -> None:
    """Runs the linear probe."""
    probe_main(PROBE)


if __name__ == "__main__":
    run_entry_point(main, PROBE.memory_advice)
