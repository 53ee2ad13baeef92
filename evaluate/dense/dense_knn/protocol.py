"""Settings of dense retrieval: data, maps, memory, vote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class MemoryConfig:
    patches: int = 1_024_000
    """Patches in the memory, at most; each training image gives the same number in each pass."""
    passes: int = 2
    """Passes over the training images, each with new crops; without augmentation one is enough."""
    augment: bool = True
    """Random resized crop and colours; without it each image is seen whole."""
    area: tuple[float, float] = (0.5, 1.0)
    """Augmentation: the crop's share of the image's area."""
    colour: float = 0.3
    """Augmentation: range of brightness, contrast and saturation factors around 1."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "patches", "passes")
        if not self.augment and self.passes != 1:
            raise ValueError(f"passes must be 1 without augment, not {self.passes}: all would be equal")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be (min, max) with 0 < min ≤ max ≤ 1, not {self.area}")
        if not 0 <= self.colour < 1:
            raise ValueError(f"colour must be 0 … 1, not {self.colour}")


@dataclass(frozen=True)
class DenseKnnConfig(ProtocolConfig):
    name: str = "dense_knn_voc12aug_1024k"
    """The protocol's name, under which results are compared; it holds the memory's size."""
    kind: Literal["dense_knn"] = "dense_knn"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("voc12aug:data/VOCdevkit"))
    """Its train split fills the memory, its val split asks."""
    train_limit: int | None = None
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many validation images; none: all."""
    features: MapConfig = field(default_factory=MapConfig)
    """Maps of the backbone."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """Patches of the training images."""
    k: int = 30
    """Nearest patches of the memory that vote."""
    temperature: float = 0.02
    """τ of the softmax over cosine / τ that weights their soft labels."""
    bank_chunk: int = 65536
    """Rows of the memory that a GPU searches at a time; affects memory and speed only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit", "k", "bank_chunk")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
