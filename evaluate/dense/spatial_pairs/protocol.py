"""Settings of the test of position and scale: pairs of crops, features, probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from core.data.open import DataConfig
from core.features import FeatureConfig
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.mlp import MlpConfig


@dataclass(frozen=True)
class PairConfig:
    per_image: int = 4
    """Pairs of crops of each image."""
    area: tuple[float, float] = (0.05, 0.25)
    """A crop's share of the image's area, drawn uniformly."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of a crop, drawn log-uniformly."""
    tries: int = 10
    """Pairs drawn until two crops don't overlap; then the pair of least overlap counts."""
    equalised: int = 24
    """Side in pixels to which crops are reduced first in the equalised variant, so that sharpness gives no clue."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be (min, max) with 0 < min ≤ max ≤ 1, not {self.area}")
        check_at_least_one(self, "per_image", "tries", "equalised")


@dataclass(frozen=True)
class SpatialPairsConfig(ProtocolConfig):
    name: str = "spatial_pairs_imagenet_96px"
    """The protocol's name, under which results are compared."""
    kind: Literal["spatial_pairs"] = "spatial_pairs"
    """Kind of evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images; labels are not used."""
    train_limit: int | None = 12_500
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = 2500
    """A fixed sample of this many test images; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of the crops; `transform.crop` is their side in pixels."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Crops."""
    mlp: MlpConfig = field(default_factory=MlpConfig)
    """The probe of relations; the ridge regression beside it has no settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit")
