"""Run under torchrun by test_finetune.py: evaluate/finetune.py, keeping the weights of the last epoch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from evaluate.common.resumable import ProbeState
from evaluate.finetune import main

if __name__ == "__main__":
    remove = ProbeState.remove

    def keep(self: ProbeState) -> None:
        shutil.copyfile(self._path, self._path.with_name("kept.pt"))
        remove(self)

    ProbeState.remove = keep  # type: ignore[method-assign]
    main()
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    if (out / "kept.pt").exists():
        network = torch.load(out / "kept.pt", weights_only=True)["network"]
        torch.save({"model": network["model"], "head": network["head"]["weight"]}, out / "weights.pt")
