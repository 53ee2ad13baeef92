"""Settings of the jigsaw test: tiles, features, probe, recognition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.data.open import DataConfig
from core.features import FeatureConfig
from evaluate.common.protocol import check_name, check_version
from evaluate.dense.mlp import MlpConfig


@dataclass(frozen=True)
class JigsawConfig:
    name: str = "jigsaw_imagenet_2x2"
    """The protocol's name, under which results are compared."""
    kind: Literal["jigsaw"] = "jigsaw"
    """Kind of evaluation."""
    scaled_down: bool = False
    """True if it is made for small machines: no paper has numbers of it."""
    protocol_version: int = 1
    """Version of the protocol's meaning, raised when that changes; results of different versions are not comparable."""
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
        check_name(self.name)
        check_version(self.protocol_version)
        for key in ("train_limit", "val_limit", "tile_size", "k"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if not 2 <= self.grid <= 4:
            raise ValueError(f"grid must be 2 … 4, not {self.grid}")
        if not 0 < self.tile_share <= 1:
            raise ValueError(f"tile_share must be above 0 and at most 1, not {self.tile_share}")
        if self.features.transform.crop % self.grid:
            raise ValueError(f"features.transform.crop must be a multiple of the grid {self.grid}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
