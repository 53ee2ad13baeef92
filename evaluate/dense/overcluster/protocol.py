"""Settings of overclustering: data, maps, clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class OverclusterConfig(ProtocolConfig):
    name: str = "overcluster_voc12aug_k500"
    """The protocol's name, under which results are compared; it holds the number of clusters."""
    kind: Literal["overcluster"] = "overcluster"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("voc12aug:data/VOCdevkit"))
    """Its val split is clustered; nothing is trained."""
    val_limit: int | None = None
    """A fixed sample of this many validation images; none: all."""
    features: MapConfig = field(default_factory=lambda: MapConfig(size=448))
    """Maps of the backbone."""
    clusters: tuple[int, ...] = (500,)
    """Numbers of clusters K; the first is the headline. K equal to the number of classes: Hungarian matching; any
    other: each cluster takes the class of its highest precision."""
    components: int = 50
    """Principal components that are clustered, of standardised features; at most the width of the features."""
    side: int = 100
    """Rows and columns at which clusters and labels are compared (nearest)."""
    seeds: int = 5
    """Runs of k-means, over which mIoU is averaged."""
    iterations: int = 100
    """Iterations of k-means."""
    restarts: int = 5
    """Restarts of each run, of which that of the least error counts."""
    points: int = 2_000_000
    """Patches that k-means sees, at most; all are assigned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "val_limit", "components", "side", "seeds", "iterations", "restarts", "points")
        if not self.clusters or min(self.clusters) < 2 or len(set(self.clusters)) < len(self.clusters):
            raise ValueError(f"clusters must be different numbers of at least 2, not {list(self.clusters)}")
