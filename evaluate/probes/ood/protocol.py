"""Settings of the out-of-distribution probe: clean data, heads, shifted data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from core.data.open import DataConfig
from core.features import FeatureConfig
from evaluate.common.protocol import ProtocolConfig

SETS = ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2", "objectnet", "imagenet-c", "corruptions")
"""Shifted data: folders below `shift_root`, or the 14 corruptions of the clean test images."""


@dataclass(frozen=True)
class OodConfig(ProtocolConfig):
    name: str = "ood_imagenet_224px"
    """The protocol's name, under which results are compared."""
    kind: Literal["ood"] = "ood"
    """Kind of evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Its train split is the bank of the k-NN head, its val split the clean test; all heads have its classes."""
    train_limit: int | None = None
    """A fixed sample of this many bank images; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many clean test images, which are also those corrupted; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of the backbone."""
    sets: tuple[str, ...] = ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2", "objectnet")
    """Shifted data, of `SETS`."""
    shift_root: str = ""
    """Folder of the shifted data sets, each in a folder of its own; not needed for corruptions."""
    raw_size: bool = False
    """ImageNet-C: the stored 224-px images as they are (centre crop), instead of the evaluation transform."""
    objectnet: Literal["restricted", "open"] = "restricted"
    """`restricted`: the best class among the 113 shared ones; `open`: among all classes of the head."""
    knn: bool = True
    """Uses a k-NN head; `--head` adds linear heads, which then are the headline."""
    k: int = 20
    """Neighbours of the k-NN head."""
    temperature: float = 0.07
    """τ of the weighted vote exp(cosine / τ)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit", "k")
        if unknown := sorted(set(self.sets) - set(SETS)):
            raise ValueError(f"sets must be of {', '.join(SETS)}, not {unknown[0]!r}")
        if not self.sets:
            raise ValueError(f"sets must name at least one of {', '.join(SETS)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
