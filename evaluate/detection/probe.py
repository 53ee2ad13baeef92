"""Detection: a detector trained on a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evaluate.common.description import Description
from evaluate.common.metrics import Metric

DETECTIONS = "detections"
"""Kind of picture."""


class DetectionProbe(Description):
    kind = "detection"
    door = "coco"
    metrics = (
        Metric("box_ap50", "box AP50"),
        Metric("box_ap", "box AP"),
        Metric("box_ap75", "box AP75"),
        Metric("mask_ap", "mask AP"),
    )
    class_metrics = (
        Metric("box_ap_per_class", "box AP of each class"),
        Metric("mask_ap_per_class", "mask AP of each class"),
    )
    performance_keys = frozenset(
        {"data.broken_share", "solver.checkpoint_every", "solver.log_every", "solver.processes"}
    )
    pictures: ClassVar[Mapping[str, str]] = {DETECTIONS: "Detections: truth on the left, findings on the right"}
    memory_advice = "give solver.global_batch a lower value, or set solver.amp=true"
    position = 60

    def config_class(self) -> type[Any]:
        from evaluate.detection.settings import DetectionConfig

        return DetectionConfig

    def headline_metrics(self, document: Mapping[str, Any]) -> dict[str, float]:
        """Box and mask AP; all three APs for Pascal VOC."""
        found = super().headline_metrics(document)
        data = document.get("settings", {}).get("data")
        source = data.get("source") if isinstance(data, Mapping) else None
        if str(source).startswith("voc"):
            return found
        return {key: value for key, value in found.items() if key not in ("box_ap50", "box_ap75")}

    def for_processes(self, config: Any, world_size: int, arguments: Sequence[str]) -> Any:
        from evaluate.detection.training.scaling import scale_to_processes

        return scale_to_processes(config, world_size)[0]


PROBE = DetectionProbe()

PERFORMANCE_KEYS = PROBE.performance_keys
"""Settings that change neither training nor measurement; what follows from `solver.processes` is in `global_batch`."""


def find_protocol(name: str) -> Path:
    """File of a detection protocol. Raises `UserError` with the known names."""
    from evaluate.common.protocol import protocol_file

    return protocol_file(name, PROBE.kind)
