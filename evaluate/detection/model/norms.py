"""Norm layers by the name a protocol gives them: what Detectron2 lacks, and what SyncBN is on this hardware."""

from __future__ import annotations

from functools import partial
from typing import Any

from core.distributed import Processes


def norm_of(name: str) -> Any:
    """What Detectron2's `get_norm` takes: its own names as they are, `LN` as a layer norm over channels."""
    if name != "LN":
        return name
    from timm.layers import LayerNorm2d

    return partial(LayerNorm2d, eps=1e-6)


def norm_here(name: str, processes: Processes, heads: bool = False) -> str:
    """The layer that does what `name` asks for with these processes.

    SyncBN is torch's on GPUs, Detectron2's own version among CPU processes (torch has none), and plain BN where a
    process is alone. Heads see a number of regions that differs from rank to rank, which theirs weighs.
    """
    if name != "SyncBN":
        return name
    if processes.world_size == 1:
        return "BN"
    if processes.device.type == "cuda":
        return "SyncBN"
    return "naiveSyncBN_N" if heads else "naiveSyncBN"
