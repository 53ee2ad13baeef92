"""k-NN and linear accuracy on a list of data sets, each by its own metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluate.common.description import Description
from evaluate.common.metrics import Metric


class TransferProbe(Description):
    kind = "transfer"
    door = "transfer_sets"
    metrics = (
        Metric("knn_top1", "k-NN top-1"),
        Metric("knn_mean_per_class", "k-NN mean per class"),
        Metric("linear_top1", "linear top-1"),
        Metric("linear_mean_per_class", "linear mean per class"),
    )
    performance_keys = frozenset({"features.batch", "sets"})
    data_key = "sets"
    data_option = "--sets"
    position = 40

    def config_class(self) -> type[Any]:
        from evaluate.probes.transfer.protocol import TransferConfig

        return TransferConfig

    def headline_metrics(self, document: Mapping[str, Any]) -> dict[str, float]:
        """k-NN and linear accuracy in the metric that is usual for the set, which is part of the key."""
        values = document["metrics"]
        return {f"{probe}_{values['metric']}": float(values[probe]) for probe in ("linear", "knn")}

    def takes_pixels(self, config: Any) -> bool:
        """Raw pixels are one vector per image: no blocks, no tokens."""
        return bool(config.blocks == 1 and config.pooling == "auto")


PROBE = TransferProbe()
