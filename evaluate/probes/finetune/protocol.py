"""The fine-tuning protocol: which images, what is trained how, and which learning rates are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from core.backbones import family_of
from core.config import check_at_least_one
from core.data.open import DataConfig
from core.data.order import LastBatch
from core.errors import UserError
from core.features import FeatureConfig
from core.schedules import ScheduleConfig
from evaluate.common.protocol import ProtocolConfig
from evaluate.probes.accuracy import Report
from evaluate.probes.training_views import TrainingViewConfig


@dataclass(frozen=True)
class FinetuneOptimConfig:
    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum 0.9, or AdamW with betas 0.9 and 0.999."""
    weight_decay: float = 0.0
    """Weight decay; biases and norms have none."""
    layer_decay: float = 1.0
    """ViT: each block's learning rate is this times that of the block above it; 1: all equal."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in 0…1, not {self.layer_decay}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, but is {self.weight_decay}")


@dataclass(frozen=True)
class FinetuneConfig(ProtocolConfig):
    RENAMED: ClassVar = {
        "optimiser": "optim.name", "weight_decay": "optim.weight_decay", "layer_decay": "optim.layer_decay",
    }  # fmt: skip
    name: str = "finetune_mulan_r50"
    """The protocol's name, under which results are compared."""
    kind: Literal["finetune"] = "finetune"
    """Kind of evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Trained on its train split; the best learning rate is chosen, and all are reported, on its val split."""
    share: float | None = None
    """Semi-supervised: this share of the training images, equally many of each class, drawn by the seed; none: all."""
    file_list: str | None = None
    """Semi-supervised: a text file of training images, one per line (SimCLR's lists), instead of `share`."""
    train_limit: int | None = None
    """A fixed sample of this many training images, before `share` is drawn; none: all."""
    val_limit: int | None = None
    """A fixed sample of this many validation images; none: all."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Evaluation transform, pooling and arithmetic of the backbone; `batch` is that of validation."""
    augment: TrainingViewConfig = field(default_factory=TrainingViewConfig)
    """Crop and flip of the training images."""
    optim: FinetuneOptimConfig = field(default_factory=FinetuneOptimConfig)
    """The optimiser."""
    lrs: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1)
    """Peak learning rates; the network is trained anew with each."""
    head_lrs: tuple[float, ...] = ()
    """Peak learning rates of the head alone, each tried with each of `lrs`; empty: the head learns like the rest."""
    sync_norm: bool = True
    """Shares the statistics of batch norms among processes; false: each process has its own, and those of the first
    are validated, so that the number of processes is part of the protocol."""
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_epochs=0, end=0))
    """Warm-up and cosine."""
    batch: int = 1024
    """Global batch, over all processes."""
    epochs: int = 30
    """Epochs with each learning rate; validation follows each."""
    last_batch: LastBatch = "drop"
    """`keep`: the last batch of an epoch may be smaller; `drop`: its images wait for another epoch."""
    report: Report = "last_epoch"
    """Epoch whose accuracy each learning rate counts with: the last one, or its own best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "train_limit", "val_limit", "batch", "epochs")
        for key in ("lrs", "head_lrs"):
            rates = getattr(self, key)
            if not all(0 < lr < math.inf for lr in rates) or len(set(rates)) < len(rates):
                raise ValueError(f"{key} must be different positive numbers, not {list(rates)}")
        if not self.lrs:
            raise ValueError("lrs must hold at least one number")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share must be in 0…1, not {self.share}")
        if self.share is not None and self.file_list is not None:
            raise ValueError("share and file_list can't both be given")
        if self.train_limit is not None and self.file_list is not None:
            raise ValueError("train_limit and file_list can't both be given")
        if self.features.precision == "fp16":
            raise ValueError("features.precision fp16 is too narrow for training; take bf16 or fp32")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(f"schedule.warmup_epochs {self.schedule.warmup_epochs} must be less than epochs")

    def rates(self) -> list[tuple[float, float]]:
        """Peak learning rates (of the backbone, of the head), one pair for each training."""
        return [(lr, head_lr) for lr in self.lrs for head_lr in (self.head_lrs or (lr,))]


def parameter_groups(backbone: Any, head: nn.Module, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Groups by layer and by whether they decay, each with `scale`, its share of the learning rate.

    With `head_lrs`, groups of the head are separate, and have `head` True.

    Layer l of the backbone has decay^(top − l), where top is the layer of the head (BEiT, arXiv 2106.08254,
    appendix H). Raises `UserError` for a decay below 1 where the backbone is one layer, as a ResNet is.
    """
    family = family_of(backbone)
    backbone_layers = family.layer_groups(backbone)
    top = backbone_layers.top
    if config.optim.layer_decay < 1 and top == 0:
        raise UserError(
            f"optim.layer_decay={config.optim.layer_decay} is for ViTs; set optim.layer_decay=1 for {family.noun}"
        )
    groups: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        decays = backbone_layers.decays(name, parameter)
        groups.setdefault((backbone_layers.layers[name], decays, False), []).append(parameter)
    for parameter in head.parameters():
        groups.setdefault((top, parameter.ndim > 1, bool(config.head_lrs)), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.optim.weight_decay if decays else 0.0,
            "scale": config.optim.layer_decay ** (top - layer),
            **({"head": True} if of_head else {}),
        }
        for (layer, decays, of_head), parameters in groups.items()
    ]
