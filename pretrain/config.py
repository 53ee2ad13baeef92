"""Config of a pre-training run: one frozen dataclass, whose defaults configs/pretrain/*.yaml override."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from core.backbones import BackboneConfig
from core.backbones.vit_start import VitStartConfig
from core.data.open import DataConfig
from core.run_folder import Tracker
from core.schedules import ScheduleConfig
from pretrain import losses
from pretrain.compute import ComputeConfig
from pretrain.heads import HeadConfig
from pretrain.losses.base import Auxiliary, Objective
from pretrain.optimisers import OptimConfig
from pretrain.views.config import GLOBAL, Decode, Resampler, ViewConfig


@dataclass(frozen=True)
class ObjectiveConfig:
    name: str = "byol"
    """Loss of the views against targets: the name of a file in pretrain/losses."""
    temperature: float = 1.0
    """τ of a softmax over similarities (MoCo v3's InfoNCE); unused by the objectives without one."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the objective, the fields of its `Config`."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        losses.configure(self.name, Objective, self.options)

    def loss(self) -> type[Objective]:
        """Class of the objective."""
        return losses.find(self.name, Objective).LOSS  # type: ignore[return-value]


@dataclass(frozen=True)
class AuxiliaryConfig:
    """One auxiliary loss: the weight λ of its loss over the epochs, and its views."""

    view: str = GLOBAL
    """View type that it gets. Types other than `global` that an auxiliary loss names are not part of the objective."""
    weight: float = 1.0
    """λ once it has risen. Where λ is 0 the loss makes no pass, and the rest of the run is as if it were not listed."""
    from_epoch: float = 0.0
    """λ is 0 before this epoch."""
    ramp_epochs: float = 0.0
    """Epochs over which λ then rises linearly from 0."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the loss, the fields of its `Config`."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be 0 or more, not {self.weight}")
        if self.from_epoch < 0 or self.ramp_epochs < 0:
            raise ValueError("from_epoch and ramp_epochs must not be negative")

    def weight_at(self, epoch: float) -> float:
        """λ at an epoch (a fraction within an epoch)."""
        if epoch < self.from_epoch:
            return 0.0
        return self.weight * min(1.0, (epoch - self.from_epoch) / self.ramp_epochs if self.ramp_epochs else 1.0)


@dataclass(frozen=True)
class TargetConfig:
    kind: Literal["ema", "stop_gradient", "none"] = "ema"
    """`ema`: a momentum network. `stop_gradient`: the online network's current weights (SimSiam). `none`: the objective
    compares online views with each other, gradients flow into both (SimCLR)."""
    momentum: float = 0.996
    """τ at the first step; it rises to 1 along a cosine. No effect without a momentum network."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must lie between 0 and 1, not {self.momentum}")


@dataclass(frozen=True)
class CheckpointConfig:
    every_epochs: int = 1
    """A training state is written at the end of every n-th epoch, and at the end of the last."""
    every_minutes: float | None = None
    """Also after this many minutes since the last one; none: only at ends of epochs."""
    log_steps: int = 20
    """Steps between two lines of metrics; losses are read back from the device only then."""

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.log_steps < 1:
            raise ValueError("every_epochs and log_steps must be at least 1")
        if self.every_minutes is not None and self.every_minutes <= 0:
            raise ValueError(f"every_minutes must be positive or null, not {self.every_minutes}")


@dataclass(frozen=True)
class MonitorConfig:
    every_epochs: int = 0
    """k-NN accuracy of the online network at the end of every n-th epoch; 0: never."""
    bank: int = 20000
    """Labelled training images in the bank (a seeded sample; all where there are fewer)."""
    queries: int = 5000
    """Validation images scored (a seeded sample; all where there are fewer)."""
    k: int = 20
    """Neighbours that vote."""
    resize: int = 256
    """Shorter side to which images are resized, px."""
    crop: int = 224
    """Side of the centre crop, px."""
    predictor_fits: int = 0
    """Times, evenly over the run and at its end, at which the excess loss of the predictors is measured
    (pretrain/monitoring/predictor_fit.py); for BYOL, SimSiam and MoCo v3 in one process."""
    predictor_images: int = 3072
    """Images of that measurement, two thirds of them to fit predictors; their views stay in memory."""

    def __post_init__(self) -> None:
        if self.predictor_fits < 0 or self.predictor_images < 1:
            raise ValueError("predictor_fits must not be negative, and predictor_images must be at least 1")
        if self.every_epochs < 0 or min(self.bank, self.queries, self.k, self.resize, self.crop) < 1:
            raise ValueError("every_epochs must not be negative, the other values must be at least 1")
        if self.crop > self.resize:
            raise ValueError(f"crop must not be larger than resize ({self.resize}), but is {self.crop}")


@dataclass(frozen=True)
class PretrainConfig:
    seed: int = 0
    """Seed of weights, order of images and views."""
    epochs: int = 200
    """Passes over the data."""
    batch: int = 1024
    """Images per step over all processes."""
    data: DataConfig = field(default_factory=DataConfig)
    """Source of the images."""
    broken_share: float = 0.01
    """The run stops once more than this share of the images is broken."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Network to train."""
    init: str = ""
    """Checkpoint whose backbone both networks start from (`--init`); it then decides on `backbone`. Heads start anew.
    Empty: random weights."""
    drop_path: float = 0.0
    """Stochastic depth of the online backbone; a momentum network has none."""
    vit_start: VitStartConfig = field(default_factory=VitStartConfig)
    """Initial weights of a ViT."""
    views: dict[str, ViewConfig] = field(default_factory=lambda: {GLOBAL: ViewConfig(count=2)})
    """View types by name. `global` must be among them: its views are the targets of all views."""
    resampler: Resampler = "torch"
    """Library that resizes crops: torch, or Pillow at five times the cost; they differ by a grey level in places."""
    decode: Decode = "workers"
    """Where baseline JPEGs are decoded, cropped and resized. `device`: nvJPEG on the GPU that trains, which
    relieves the loader's processes and gives slightly other pixels (docs/pretraining.md)."""
    projector: HeadConfig = field(default_factory=HeadConfig)
    """Head on the backbone of both networks; objectives with heads of their own have it in objective.options."""
    predictor: HeadConfig = field(default_factory=HeadConfig)
    """Head on the online projector."""
    predictors: Literal["per_view", "shared"] = "per_view"
    """One predictor per view type, or one for all."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss of the views against their targets."""
    auxiliary: dict[str, AuxiliaryConfig] = field(default_factory=dict)
    """Further losses by name, each a file in pretrain/losses, added to any objective."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """Source of the targets."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Update of the weights."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over time."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Precision, layout and order of the arithmetic."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Times at which state and metrics are written."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """Online k-NN."""
    tracker: Tracker = "none"
    """Destination of metrics in addition to metrics.jsonl."""

    def __post_init__(self) -> None:
        if not self.init:
            self.check_channels(self.backbone.in_chans)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0 … 2³² − 1, not {self.seed}")
        if self.epochs < 1 or self.batch < 2:
            raise ValueError("epochs must be at least 1, and batch at least 2 (batch norm needs two images)")
        if not 0 <= self.broken_share < 1:
            raise ValueError(f"broken_share must lie in [0, 1), not {self.broken_share}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must lie in [0, 1), not {self.drop_path}")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} must be fewer than epochs {self.epochs}"
            )
        if self.decode == "device" and (self.resampler != "torch" or self.data.channels != 3):
            wrong = "resampler=torch" if self.resampler != "torch" else "data.channels=3"
            raise ValueError(f"decode=device needs {wrong}; set that, or decode=workers")
        if any("." in name for name in self.views):
            raise ValueError(f"names of view types must not contain a dot: {list(self.views)}")
        if GLOBAL not in self.views:
            raise ValueError(f"views must include {GLOBAL!r}, whose views are the targets; it has {list(self.views)}")
        self._check_auxiliaries()
        self._check_objective()
        self._check_shard()
        self._check_graphs()

    def check_channels(self, channels: int) -> None:
        """Checks data and views against a backbone of `channels` channels.

        Raises `ValueError` where their numbers differ, and for colours of images that aren't RGB.
        """
        if self.data.channels == channels == 3:
            return
        if self.data.channels != channels:
            raise ValueError(f"data.channels {self.data.channels} must be the backbone's in_chans {channels}; set both")
        if any(recipe.jitter_p or recipe.grey_p for view in self.views.values() for recipe in view.photometric):
            raise ValueError("views.*.photometric: colours need RGB images; set jitter_p and grey_p to 0")

    def _check_shard(self) -> None:
        if self.compute.shard == "none":
            return
        needed = {
            "optim.name": (self.optim.name == "adamw", "adamw, whose state is sharded"),
            "compute.precision": (self.compute.precision != "fp16", "fp32 or bf16"),
            "monitor.every_epochs": (self.monitor.every_epochs == 0, "0: the monitor reads whole networks"),
            "monitor.predictor_fits": (self.monitor.predictor_fits == 0, "0: fits read whole networks"),
        }
        for key, (done, what) in needed.items():
            if not done:
                raise ValueError(f"{key} must be {what}, for compute.shard={self.compute.shard}")

    def _check_graphs(self) -> None:
        """`ValueError` for what a captured step can't do: its passes must depend on the views alone."""
        if not self.compute.cuda_graphs:
            return
        refused = {
            f"objective.name={self.objective.name}": not self.objective.loss().STATIC,
            "auxiliary": bool(self.auxiliary),
            "drop_path": self.drop_path > 0,
            "compute.precision=fp16": self.compute.precision == "fp16",
            "compute.compile": self.compute.compile,
            "compute.checkpointing": self.compute.checkpointing,
            "compute.shard": self.compute.shard != "none",
        }
        if found := [key for key, asked in refused.items() if asked]:
            raise ValueError(f"compute.cuda_graphs can't be combined with {', '.join(found)}; leave one of them out")

    def auxiliary_views(self) -> set[str]:
        """View types that belong to an auxiliary loss alone, and not to the objective."""
        return {auxiliary.view for auxiliary in self.auxiliary.values()} - {GLOBAL}

    def _check_objective(self) -> None:
        name, loss = self.objective.name, self.objective.loss()
        for key in ("projector", "predictor", "predictors"):
            default = PretrainConfig.__dataclass_fields__[key]
            unset = default.default if key == "predictors" else HeadConfig()
            if key not in loss.USES and getattr(self, key) != unset:
                raise ValueError(f"{key} has no effect on objective.name={name}; leave it out")
        if {"projector", "predictor"} <= loss.USES and self.projector.widths[-1] != self.predictor.widths[-1]:
            raise ValueError(
                f"predictor.widths must end as projector.widths do ({self.projector.widths[-1]}), "
                f"not in {self.predictor.widths[-1]}"
            )
        if self.monitor.predictor_fits and "predictors" not in loss.USES:
            raise ValueError(f"monitor.predictor_fits: objective.name={name} has no predictors; set it to 0")
        if self.target.kind not in loss.TARGETS:
            raise ValueError(
                f"target.kind must be {' or '.join(loss.TARGETS)} for objective.name={name}, not {self.target.kind}"
            )
        if loss.JOINT and self.compute.backward != "packed":
            raise ValueError(
                f"compute.backward must be packed for objective.name={name}, which needs all views in one graph, "
                f"not {self.compute.backward}"
            )
        own = {key: view for key, view in self.views.items() if key not in self.auxiliary_views()}
        loss.check_views(own)

    def _check_auxiliaries(self) -> None:
        for name, auxiliary in self.auxiliary.items():
            losses.configure(name, Auxiliary, auxiliary.options)
            if auxiliary.view not in self.views:
                raise ValueError(
                    f"auxiliary.{name}.view {auxiliary.view!r} is not a view type; views has {', '.join(self.views)}"
                )
            losses.find(name, Auxiliary).LOSS.check_views({auxiliary.view: self.views[auxiliary.view]})
