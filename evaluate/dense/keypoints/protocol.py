"""Settings of keypoint matching: data, maps, views, tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from evaluate.common.protocol import ProtocolConfig
from evaluate.dense.data import DenseDataConfig
from evaluate.dense.maps import MapConfig


@dataclass(frozen=True)
class WarpConfig:
    share: tuple[float, float] = (0.6, 1.0)
    """Scenes: side of a view's crop as a share of the scene's side, drawn uniformly."""
    flip: float = 0.5
    """Scenes: probability of a horizontal flip of each view."""
    colour: float = 0.3
    """Scenes: range of brightness and contrast factors around 1."""

    def __post_init__(self) -> None:
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ValueError(f"share must be (min, max) with 0 < min ≤ max ≤ 1, not {self.share}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be 0 … 1, not {self.flip}")
        if not 0 <= self.colour < 1:
            raise ValueError(f"colour must be 0 … 1, not {self.colour}")


@dataclass(frozen=True)
class NaviConfig:
    every: int = 4
    """Every so many-th view is matched with a partner."""
    max_angle: float = 120.0
    """Largest angle in degrees between the cameras of a pair."""
    cells: int = 128
    """Each object's square is matched as cells × cells points, to which maps are enlarged (bicubic)."""
    matches: int = 1000
    """Most distinctive matches of a pair that count."""
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05)
    """Distances in metres within which a match is right; recall is the mean over them."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "every", "cells", "matches")
        if not 0 < self.max_angle <= 180:
            raise ValueError(f"max_angle must be above 0 and at most 180, not {self.max_angle}")
        if not self.thresholds or not all(limit > 0 for limit in self.thresholds):
            raise ValueError(f"thresholds must be positive, at least one, not {list(self.thresholds)}")
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ValueError(f"thresholds must be different, not {list(self.thresholds)}")


@dataclass(frozen=True)
class KeypointsConfig(ProtocolConfig):
    name: str = "keypoints_spair71k_800px"
    """The protocol's name, under which results are compared."""
    kind: Literal["keypoints"] = "keypoints"
    """Kind of evaluation."""
    data: DenseDataConfig = field(default_factory=lambda: DenseDataConfig("spair71k:data/SPair-71k"))
    """Pairs of images with keypoints, or scenes of which two views are drawn; nothing is trained."""
    val_limit: int | None = None
    """Scenes: a fixed sample of this many; none: all."""
    features: MapConfig = field(default_factory=lambda: MapConfig(size=800))
    """Maps of the backbone."""
    warp: WarpConfig = field(default_factory=WarpConfig)
    """Views of scenes."""
    tolerance: float = 0.1
    """A match is right within this share of the longer side of the target object's box (SPair), or of the view's side
    (scenes); NAVI has distances in metres."""
    most_pairs: int = 200
    """SPair: pairs of each category and change of viewpoint, at most; a fixed sample."""
    navi: NaviConfig = field(default_factory=NaviConfig)
    """NAVI: pairs, points on the objects, and distances within which a match is right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "val_limit", "most_pairs")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be above 0 and below 1, not {self.tolerance}")
