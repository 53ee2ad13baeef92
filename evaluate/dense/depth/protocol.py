"""Settings of linear depth: data, maps, bins, heads, crops, test."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.heads import SweepConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class BinsConfig:
    count: int = 256
    """Number of bins, which is the number of outputs of the head."""
    range: tuple[float, float] = (0.001, 10.0)
    """Least and largest depth in metres: of the bins, of predictions, and (exclusive) of pixels that count."""
    spacing: Literal["linear", "log"] = "linear"
    """Spacing of the bins' depths over the range."""
    upsample: int = 4
    """Factor by which the outputs are enlarged (bilinear) before they become depths."""

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"count must be at least 2, not {self.count}")
        if not 0 < self.range[0] < self.range[1] < math.inf:
            raise ValueError(f"range must be (least, largest) with 0 < least < largest, not {self.range}")
        if self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, not {self.upsample}")


@dataclass(frozen=True)
class DepthCropConfig:
    border: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the part of training images that is used, in pixels; null: all."""
    bottom: tuple[int, int] | None = None
    """Width and height of the part at the middle of the lower edge that is used, in training and test; null: all."""
    rotation: float = 2.5
    """Largest rotation in degrees, in half of the crops."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    size: tuple[int, int] = (544, 416)
    """Width and height of the crops."""
    colour: float = 0.5
    """Probability of changing gamma (.9 … 1.1), brightness (.75 … 1.25) and channels (.9 … 1.1)."""

    def __post_init__(self) -> None:
        if min(self.size) < 8:
            raise ValueError(f"size must be at least 8 pixels, not {self.size}")
        for key in ("flip", "colour"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} must be 0 … 1, not {getattr(self, key)}")


@dataclass(frozen=True)
class DepthConfig(ProtocolConfig):
    name: str = "depth_nyu_dinov2_lin1"
    """The protocol's name, under which results are compared."""
    kind: Literal["depth"] = "depth"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("nyu:data/nyu"))
    """Heads are trained on its train split and tested on its test split."""
    test_source: str | None = None
    """Another data set whose test split is used instead, e.g. `sunrgbd:/data/SUNRGBD`."""
    train_limit: int | None = None
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many test images; none: all."""
    features: MapConfig = field(default_factory=MapConfig)
    """Maps of the backbone."""
    views: Literal["augmented", "cached"] = "augmented"
    """`augmented`: the backbone sees new crops at each step. `cached`: maps of whole images, kept on disk."""
    train_labels: int | None = None
    """Cached maps: side in pixels at which the loss is computed (depth: nearest); null: `features.size`."""
    bins: BinsConfig = field(default_factory=BinsConfig)
    """From outputs of the head to depths."""
    crop: DepthCropConfig = field(default_factory=DepthCropConfig)
    """Training crops of augmented views."""
    gradient_weight: float = 0.0
    """Weight of the gradient loss beside the scale-invariant one."""
    heads: SweepConfig = field(default_factory=SweepConfig)
    """Heads trained at once, and their optimiser."""
    flip_test: bool = True
    """Averages the prediction with that of the mirrored image; augmented views only."""
    test_crop: Literal["none", "eigen", "garg"] = "none"
    """Pixels that count: `eigen`: rows 45–471 and columns 41–601 (NYU); `garg`: the shares of the image of Garg et al.
    (KITTI); `none`: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit", "train_labels")
        if self.gradient_weight < 0:
            raise ValueError(f"gradient_weight must be 0 or more, not {self.gradient_weight}")
        if self.views == "cached" and self.flip_test:
            raise ValueError("flip_test must be false for cached views")
