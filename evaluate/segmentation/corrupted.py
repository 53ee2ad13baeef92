"""A trained segmentor on corrupted test images: one result for each corruption."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config import to_dict
from core.result import Result
from evaluate.probes.ood.corrupted import Cell, write_corrupted
from evaluate.segmentation.plan import result_table

if TYPE_CHECKING:
    from evaluate.segmentation.preflight import Preflight
    from evaluate.segmentation.setup import Setup


def measure_corrupted(setup: Setup, checked: Preflight, model: Any, cells: list[Cell]) -> None:
    """Measures the model under each corruption, prints and writes the results; on one process.

    The clean result.json, which must be there, gives the facts about the data and the majority class.
    """
    from evaluate.segmentation.engine.data_pipeline import predicted, test_set
    from evaluate.segmentation.engine.metric import confusion, scores

    clean = json.loads((setup.out / "result.json").read_text(encoding="utf-8"))
    majority = {key: value for key, value in clean["metrics"].items() if key.startswith("majority_")}
    skipped = checked.skipped["val"]
    model.to(setup.context.device).eval()
    for cell in cells:
        started = time.time()
        dataset = test_set(_with(setup.engine, cell), skipped)
        matrix = np.zeros((len(setup.names),) * 2, np.int64)
        for number in range(len(dataset)):
            found = predicted(model, dataset[number])
            classes, truth = (part.data.squeeze(0).cpu() for part in (found.pred_sem_seg, found.gt_sem_seg))
            matrix += confusion(classes, truth, len(setup.names))
        metrics = scores(matrix, setup.names) | majority
        trained = {"processes": clean["settings"]["processes"], "scaling": setup.scaling, "loaded": setup.loaded}
        result = Result(
            protocol=setup.protocol,
            metrics=metrics,
            backbone=setup.backbone,
            data=clean["data"],
            seed=setup.context.seed,
            settings=to_dict(setup.config) | trained,
            started=started,
            device=setup.context.device,
        )
        write_corrupted(setup.out, cell, result, result_table(metrics))


def _with(engine: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """Settings of the engine whose test images are corrupted once they are read."""
    loader = engine["test_dataloader"]
    steps = [
        step
        for each in loader["dataset"]["pipeline"]
        for step in ([each, {"type": "CorruptImage", "cell": cell}] if each["type"] == "ReadImage" else [each])
    ]
    return {"test_dataloader": {**loader, "dataset": {**loader["dataset"], "pipeline": steps}}}
