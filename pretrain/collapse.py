"""Collapse: every image gets nearly the same projection. Measured at log steps, and told with the keys to turn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import PretrainConfig

COLLAPSED = 0.02
"""Spread below which the projections count as equal; fresh networks and healthy runs lie above 0.1."""


@torch.no_grad()
def spread(projections: Tensor) -> Tensor:
    """Standard deviation of L2-normalised projections [B, D] over the batch, mean over channels, times √D: a scalar.

    0 where all are equal, about 1 where they lie evenly on the sphere. SimSiam, arXiv 2011.10566, section 4.1.
    """
    return F.normalize(projections, dim=1).std(0, correction=0).mean() * projections.shape[1] ** 0.5


class CollapseWatch:
    """Tells a collapse once, and again where it comes back."""

    def __init__(self, config: PretrainConfig) -> None:
        keys = ["lower optim.lr", "lengthen schedule.warmup_epochs"]
        if config.target.kind == "ema":
            keys.append(f"raise target.momentum ({config.target.momentum:g})")
        if not config.projector.output_norm:
            keys.append("set projector.output_norm=true")
        self._keys = ", ".join(keys[:-1]) + f" or {keys[-1]}"
        self._told = False

    def note(self, step: int, value: float) -> str:
        """What to tell about the spread `value` after `step` steps; empty where there is nothing new."""
        told, self._told = self._told, value < COLLAPSED
        if told or not self._told:
            return ""
        return (
            f"collapsed at step {step}: different images have nearly the same projection (spread {value:.2g}, where 1 "
            f"is even and 0 constant), so nothing more is learned; {self._keys}, and start from an earlier state"
        )
