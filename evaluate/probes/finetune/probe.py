"""Fine-tuning of the whole network, on all labels or a few."""

from __future__ import annotations

from typing import Any

from evaluate.common.description import Description
from evaluate.common.metrics import Metric


class FinetuneProbe(Description):
    kind = "finetune"
    door = "finetune"
    metrics = (Metric("top1", "top-1"),)
    performance_keys = frozenset({"features.batch"})
    position = 30

    def config_class(self) -> type[Any]:
        from evaluate.probes.finetune.protocol import FinetuneConfig

        return FinetuneConfig


PROBE = FinetuneProbe()
