"""k-NN and linear accuracy over a list of sets. `python evaluate/transfer_sets.py --ckpt runs/r50 --sets …`"""

from __future__ import annotations

import sys
from pathlib import Path

# In front, and instead of this folder, whose files would be importable as `common`, `probes`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import run_entry_point
from evaluate.probes.main import probe_main
from evaluate.probes.transfer.probe import PROBE


def main() -> None:
    """Runs the transfer probe."""
    probe_main(PROBE)


if __name__ == "__main__":
    run_entry_point(main, PROBE.memory_advice)
