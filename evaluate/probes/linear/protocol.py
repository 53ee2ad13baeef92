"""The linear probe's protocol: what the heads see, how they are trained, and which learning rates are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from core.backbones import Pooling
from core.config import check_at_least_one
from core.data.open import DataConfig
from core.data.order import LastBatch
from core.features import FeatureConfig
from core.schedules import ScheduleConfig
from evaluate.common.protocol import ProtocolConfig
from evaluate.probes.accuracy import Report
from evaluate.probes.features.standardise import Standardisation
from evaluate.probes.linear.head_grid import HeadOptimConfig
from evaluate.probes.training_views import TrainingViewConfig


@dataclass(frozen=True)
class LinearConfig(ProtocolConfig):
    name: str = "linear_mulan_r50"
    """The protocol's name, under which results are compared."""
    kind: Literal["linear"] = "linear"
    """Kind of evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Heads are trained on its train split; the best one is chosen, and all are reported, on its val split."""
    train_limit: int | None = None
    """A fixed sample of this many training images; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many validation images; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Evaluation transform and arithmetic of the backbone; `features.pooling` stays auto, `poolings` decides."""
    views: Literal["augmented", "cached"] = "augmented"
    """`augmented`: each epoch the backbone sees new crops. `cached`: features of the evaluation transform, kept on
    disk, serve all epochs."""
    augment: TrainingViewConfig = field(default_factory=TrainingViewConfig)
    """Crop and flip of augmented views."""
    blocks: tuple[int, ...] = (1,)
    """Numbers of last blocks of which a head sees the class tokens, concatenated (ViT; 1 for a ResNet)."""
    poolings: tuple[Pooling, ...] = ("auto",)
    """Head inputs: `cls`; `cls+patches`, with the last block's mean patch token; `patches`, or `avg` (ResNet)."""
    standardise: Standardisation = "none"
    """`train`: by mean and deviation of the training images' features, per dimension; `batch_norm`: batch norm
    without scale and shift."""
    lrs: tuple[float, ...] = (0.005,)
    """Peak learning rates; one head each for every input."""
    lr_per_256: bool = False
    """Rates are for a global batch of 256 and scale with the batch."""
    optim: HeadOptimConfig = field(default_factory=HeadOptimConfig)
    """The optimiser of all heads."""
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_epochs=0, end=0))
    """Warm-up and cosine; the cosine ends at `end` times the peak."""
    batch: int = 512
    """Global batch, over all processes."""
    epochs: int = 100
    """Epochs; validation follows each."""
    epoch_steps: int | None = None
    """Steps of an epoch; none: one pass over the training images."""
    last_batch: LastBatch = "drop"
    """`keep`: the last batch of an epoch may be smaller; `drop`: its images wait for another epoch."""
    report: Report = "last_epoch"
    """Epoch whose accuracy each head counts with: the last one, or its own best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features.pooling != "auto":
            raise ValueError(f"features.pooling must be auto, not {self.features.pooling}; set poolings instead")
        check_at_least_one(self, "train_limit", "val_limit", "epoch_steps", "batch", "epochs")
        for key in ("blocks", "lrs"):
            values = getattr(self, key)
            if not values or not all(0 < value < math.inf for value in values) or len(set(values)) < len(values):
                raise ValueError(f"{key} must be different positive numbers, at least one, not {list(values)}")
        if not self.poolings or len(set(self.poolings)) < len(self.poolings):
            raise ValueError(f"poolings must be different, at least one, not {list(self.poolings)}")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(f"schedule.warmup_epochs {self.schedule.warmup_epochs} must be less than epochs")

    def used_lrs(self) -> tuple[float, ...]:
        """The peak rates of the run."""
        return tuple(lr * (self.batch / 256 if self.lr_per_256 else 1) for lr in self.lrs)
