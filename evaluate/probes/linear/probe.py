"""Linear heads on a frozen backbone."""

from __future__ import annotations

from typing import Any

from evaluate.common.description import Description
from evaluate.common.metrics import Metric


class LinearProbe(Description):
    kind = "linear"
    door = "linear"
    metrics = (Metric("top1", "top-1"),)
    performance_keys = frozenset({"features.batch"})
    position = 10

    def config_class(self) -> type[Any]:
        from evaluate.probes.linear.protocol import LinearConfig

        return LinearConfig

    def takes_pixels(self, config: Any) -> bool:
        """Raw pixels are one vector per image: no blocks, no tokens."""
        return tuple(config.blocks) == (1,) and tuple(config.poolings) == ("auto",)


PROBE = LinearProbe()
