"""Settings of label propagation: clips, maps, neighbours, queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class ClipsConfig:
    count: int = 10
    """Rendered clips."""
    size: int = 128
    """Height and width in pixels."""
    frames: int = 12
    """Frames of each clip, at least 4."""
    objects: tuple[int, int] = (2, 3)
    """Least and most objects in a clip."""
    radius: tuple[float, float] = (0.12, 0.16)
    """Smallest and largest radius of an object as a share of `size`."""
    speed: tuple[float, float] = (2.0, 5.0)
    """Slowest and fastest motion in pixels per frame."""
    seed: int = 0
    """Another seed gives other clips."""

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 512:
            raise ValueError(f"size must be 32 … 512 pixels, not {self.size}")
        if self.frames < 4:
            raise ValueError(f"frames must be at least 4, not {self.frames}: the first and last are not evaluated")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")
        if not 1 <= self.objects[0] <= self.objects[1] <= 8:
            raise ValueError(f"objects must be (least, most) with 1 ≤ least ≤ most ≤ 8, not {self.objects}")
        if not 0.05 <= self.radius[0] <= self.radius[1] <= 0.3:
            raise ValueError(f"radius must be (least, most) within 0.05 … 0.3, not {self.radius}")


@dataclass(frozen=True)
class PropagateConfig(ProtocolConfig):
    name: str = "davis2017_dino_480p"
    """The protocol's name, under which results are compared."""
    kind: Literal["propagate"] = "propagate"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("davis2017:data/DAVIS"))
    """`davis2017:ROOT`, or `scenes` for rendered clips; nothing is trained."""
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    """Rendered clips; no effect on other data."""
    features: MapConfig = field(default_factory=lambda: MapConfig(size=480))
    """Maps of the backbone; `size` is the shorter side of a frame in pixels."""
    multiple: int = 64
    """The longer side of a frame, at this size, is rounded down to a multiple of so many pixels."""
    queue: int = 7
    """Frames before the present one whose labels are used, beside the first frame."""
    radius: int = 12
    """Cells around a cell, in each direction, in which its neighbours are looked for; 0: everywhere."""
    k: int = 5
    """Nearest cells over all these frames whose labels are mixed."""
    temperature: float = 0.1
    """τ of their weights exp(cosine / τ)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "multiple", "k")
        for key in ("queue", "radius"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be 0 or more, not {getattr(self, key)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
