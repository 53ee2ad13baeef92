"""Settings of a protocol as resolved for what runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluate.common.protocol import kind_of_protocol
from evaluate.tables.facts import FactSheet
from tests.protocols import resolved_dense, resolved_detection, resolved_probes, resolved_segmentation

PROBES = ("knn", "linear", "logreg", "finetune", "transfer")


def resolve(name: str, sheet: FactSheet, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Settings by key, with the learning rate (probes: its share of the peak) at the steps that the sheet names."""
    schedule = next((fact.value for fact in sheet.facts if fact.key == "schedule"), {})
    steps, kind = sorted(map(int, schedule)), kind_of_protocol(name)
    if kind == "detection":
        return resolved_detection.resolve(name, sheet, steps, overrides)
    if kind == "segmentation":
        return resolved_segmentation.resolve(name, sheet, steps, overrides)
    if kind in PROBES:
        return resolved_probes.resolve(name, kind, sheet, steps, overrides)
    return resolved_dense.resolve(name, kind, steps, overrides)
