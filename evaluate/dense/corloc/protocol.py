"""Settings of object discovery: data, maps, methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class CorlocConfig(ProtocolConfig):
    name: str = "corloc_voc07"
    """The protocol's name, under which results are compared."""
    kind: Literal["corloc"] = "corloc"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("voc07:data/VOCdevkit"))
    """Images with boxes; nothing is trained."""
    val_limit: int | None = None
    """A fixed sample of this many images; none: all."""
    features: MapConfig = field(default_factory=MapConfig)
    """Maps of the backbone; `size` counts for resized images alone."""
    resolution: Literal["native", "resized"] = "native"
    """`native`: each image at its own size, padded to a multiple of the patches; `resized`: squares, whose maps are
    kept on disk."""
    centred: bool = False
    """Subtracts the image's mean feature from each patch."""
    lowest: int = 100
    """LOST: patches of the lowest degree among which the seed's companions are looked for."""
    thresholds: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
    """TokenCut: cosines from which two patches are connected; the best one counts, and all are reported."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "val_limit", "lowest")
        if not self.thresholds or not all(-1 <= value < 1 for value in self.thresholds):
            raise ValueError(f"thresholds must be cosines of at least -1 and below 1, not {list(self.thresholds)}")
