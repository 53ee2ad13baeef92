"""What one of several processes measures: dense probes on tiny scenes, each into its own folder below the argument."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from evaluate.common.registry import find_description
from evaluate.probes.base import Probe
from evaluate.probes.main import probe_main
from tests.evaluate.dense.small import SCENES, VIT

STEPS = ["heads.iterations=12", "heads.warmup=2", "heads.batch=8", "heads.lrs=[0.01]", "heads.dropout=0.3"]
RUNS = {
    "segment_linear": [*SCENES, *STEPS, "train_labels=16"],
    "depth": [*SCENES, *STEPS, "train_labels=16", "bins.count=8"],
    "dense_knn": [*SCENES, "k=3", "memory.patches=150"],
    "overcluster": [*SCENES, "clusters=[9]", "seeds=1", "iterations=5", "restarts=1"],
    "corloc": SCENES,
    "keypoints": SCENES,
    "propagate": ["clips.count=3", "clips.size=32", "clips.frames=4", "features.size=32", "clips.radius=[0.2,0.25]"],
}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    for kind, settings in RUNS.items():
        probe = find_description(kind)
        assert isinstance(probe, Probe)
        probe_main(probe, ["--ckpt", VIT, "--out", str(out / kind), "--device", "cpu", "--workers", "0", *settings])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
