"""k-NN accuracy of a frozen backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluate.common.description import Description
from evaluate.common.metrics import Metric


class KnnProbe(Description):
    kind = "knn"
    door = "knn"
    metrics = (Metric("top1", "top-1"),)
    class_metrics = (Metric("top1_per_class", "top-1 accuracy of each class"),)
    performance_keys = frozenset({"features.batch", "bank_chunk"})
    position = 0

    def config_class(self) -> type[Any]:
        from evaluate.probes.knn.protocol import KnnConfig

        return KnnConfig

    def seed_matters(self, settings: Mapping[str, Any]) -> bool:
        """Nothing is trained: the seed decides which shots or images are kept, where not all are."""
        data = settings.get("data")
        limit = data.get("limit") if isinstance(data, Mapping) else None
        return settings.get("shots") is not None or limit is not None

    def takes_pixels(self, config: Any) -> bool:
        return True


PROBE = KnnProbe()
