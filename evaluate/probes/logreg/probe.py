"""Logistic regression on a frozen backbone's features."""

from __future__ import annotations

from typing import Any

from evaluate.common.description import Description
from evaluate.common.metrics import Metric


class LogregProbe(Description):
    kind = "logreg"
    door = "logreg"
    metrics = (Metric("top1", "top-1"),)
    performance_keys = frozenset({"features.batch", "solver"})
    position = 20

    def config_class(self) -> type[Any]:
        from evaluate.probes.logreg.protocol import LogregConfig

        return LogregConfig


PROBE = LogregProbe()
