"""Settings of the jigsaw test: tiles, features, probe, recognition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from core.data.open import DataConfig
from core.features import FeatureConfig
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.mlp import MlpConfig


@dataclass(frozen=True)
class JigsawConfig(ProtocolConfig):
    name: str = "jigsaw_imagenet_2x2"
    """The protocol's name, under which results are compared."""
    kind: Literal["jigsaw"] = "jigsaw"
    """Kind of evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Labelled images."""
    train_limit: int | None = 20_000
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = 5000
    """A fixed sample of this many test images; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of whole images, whose central crop is cut into cells; tiles have the settings but for their size."""
    grid: int = 2
    """Cells in each direction."""
    tile_share: float = 0.85
    """Side of a tile as a share of its cell's, at a random place in it, so that edges can't be matched."""
    tile_size: int = 96
    """Side in pixels to which tiles are resized."""
    mlp: MlpConfig = field(default_factory=lambda: MlpConfig(batch=256))
    """The probe that gives places to tiles."""
    k: int = 20
    """Neighbours of the k-NN vote that classifies whole images."""
    temperature: float = 0.07
    """τ of the vote exp(cosine / τ)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit", "tile_size", "k")
        if not 2 <= self.grid <= 4:
            raise ValueError(f"grid must be 2 … 4, not {self.grid}")
        if not 0 < self.tile_share <= 1:
            raise ValueError(f"tile_share must be above 0 and at most 1, not {self.tile_share}")
        if self.features.transform.crop % self.grid:
            raise ValueError(f"features.transform.crop must be a multiple of the grid {self.grid}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
