"""Settings of linear segmentation: data, maps, heads, crops, test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.heads import SweepConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class CropConfig:
    ratio: tuple[float, float] = (0.5, 2.0)
    """Range of the factor on the image size; at factor 1 the shorter side has `features.size` pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Random brightness, contrast and saturation (factors 0.5 … 1.5) and hue (± 0.05), each with probability 0.5."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (min, max) with 0 < min ≤ max, not {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be 0 … 1, not {self.flip}")


@dataclass(frozen=True)
class SegmentTestConfig:
    mode: Literal["whole", "slide"] = "slide"
    """`slide`: windows of `features.size` pixels over the image, whose logits are averaged; `whole`: one square."""
    stride: int = 341
    """Pixels between windows."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on the shorter side, which is `features.size` pixels; class probabilities are averaged over them."""
    flip: bool = False
    """Also averages over the mirrored image."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be positive, not {self.stride}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive, at least one, not {list(self.scales)}")


@dataclass(frozen=True)
class SegmentLinearConfig(ProtocolConfig):
    name: str = "segment_linear_voc12aug_dinov3"
    """The protocol's name, under which results are compared."""
    kind: Literal["segment_linear"] = "segment_linear"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("voc12aug:data/VOCdevkit"))
    """Heads are trained on its train split; all are reported, and the best is chosen, on its val split."""
    train_limit: int | None = None
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many validation images; none: all."""
    features: MapConfig = field(default_factory=MapConfig)
    """Maps of the backbone."""
    views: Literal["augmented", "cached"] = "augmented"
    """`augmented`: the backbone sees new crops at each step. `cached`: maps of whole images, kept on disk."""
    train_labels: int | None = None
    """Cached maps: side in pixels at which the loss is computed (labels: nearest); null: `features.size`."""
    crop: CropConfig = field(default_factory=CropConfig)
    """Training crops of augmented views."""
    heads: SweepConfig = field(default_factory=SweepConfig)
    """Heads trained at once, and their optimiser."""
    test: SegmentTestConfig = field(default_factory=SegmentTestConfig)
    """Inference."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit", "train_labels")
        if self.views == "cached" and (self.test.mode != "whole" or self.test.flip or self.test.scales != (1.0,)):
            raise ValueError("test.mode must be whole, without scales and flip, for cached views")
