"""Run under torchrun by test_knn.py: k-NN with a bank, and queries, divided among the ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from core.backbones import BackboneConfig, build_backbone
from core.data.readers.folder import Folder
from core.distributed import Processes, init_distributed
from core.features import EvalTransformConfig, FeatureConfig, extract_features
from evaluate.probes.knn.protocol import find_neighbours, knn_accuracy
from evaluate.probes.knn.search import open_engine

KS = (1, 3, 10)


def measure(folder: Path, processes: Processes, storage: str) -> dict[str, Any]:
    """Metrics and neighbours of a random backbone, with two broken images in the bank and one among the queries."""
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet18", {"channels": [8, 8, 16, 24]}, stem="small")
    model = build_backbone(backbone)
    config = FeatureConfig(EvalTransformConfig(36, 32), batch=1, storage=storage, broken_share=0.2)  # type: ignore[arg-type]
    bank, queries = (
        extract_features(model, backbone, Folder(folder / split, split), config, processes, unit=True)
        for split in ("train", "val")
    )
    neighbours, everyone = find_neighbours(bank, queries, max(KS), processes, open_engine(processes), chunk=4)
    return {
        "metrics": knn_accuracy(bank, queries, processes, KS, 0.07),
        "positions": neighbours.positions.tolist(),
        "labels": neighbours.labels.tolist(),
        "similarities": neighbours.similarities.tolist(),
        "queries": everyone.positions.tolist(),
        "broken": [len(bank.broken), len(queries.broken)],
    }


if __name__ == "__main__":
    group = init_distributed("cpu")
    assert group.world_size == 2
    found = [measure(Path(sys.argv[1]), group, storage) for storage in ("fp32", "fp16")]
    Path(f"{sys.argv[2]}.{group.rank}").write_text(json.dumps(found))
