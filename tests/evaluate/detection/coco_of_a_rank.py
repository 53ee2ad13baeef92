"""Run under torchrun by test_coco_resume.py: evaluate/coco.py, and each rank's digest of the trained detector."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from converters.engines.detectron2_compat import check_detectron2
from core.errors import run_entry_point
from evaluate.coco import main

if __name__ == "__main__":
    check_detectron2()

    from core.checkpoints import tensors_digest
    from evaluate.detection.metrics import inference

    digests = Path(sys.argv.pop(1))
    run_inference = inference.run_inference

    def run_and_record(cfg: Any, detector: Any, split: Any, context: Any, share: float) -> Any:
        found = run_inference(cfg, detector, split, context, share)
        (digests / str(context.processes.rank)).write_text(tensors_digest(detector.state_dict()))
        return found

    inference.run_inference = run_and_record
    run_entry_point(main)
