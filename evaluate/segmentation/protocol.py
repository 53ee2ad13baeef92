"""The settings of a segmentation protocol: data, network, head, optimiser, schedule, crops, inference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from core.config import to_dict
from core.data.scenes.render import ScenesConfig
from evaluate.common.protocol import LABELS, check_name, flat
from evaluate.segmentation.probe import PROBE

CLASSES = {"scenes": 9, "voc12aug": 21, "cityscapes": 19}
"""Numbers of classes of the layouts that fix it."""
PERFORMANCE_KEYS = PROBE.performance_keys
"""Settings that change a place, speed or memory, not the protocol."""


@dataclass(frozen=True)
class SegmentDataConfig:
    layout: Literal["scenes", "ade20k", "voc12aug", "cityscapes"] = "ade20k"
    """How the files lie; `scenes` are rendered on first use and lie as ADE20K's."""
    root: str = ""
    """The data set's folder: ADEChallengeData2016, VOCdevkit (or VOC2012 in it), cityscapes; none for scenes."""
    classes: int = 150
    """Number of classes, without the ignored label."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """How the built-in scenes look; of no effect on other layouts."""
    broken_share: float = 0.001
    """Largest share of the images of a split that may be undecodable, or have labels that are."""

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= 254:
            raise ValueError(f"classes must be 2 … 254, not {self.classes}")
        if self.classes != CLASSES.get(self.layout, self.classes):
            raise ValueError(f"classes must be {CLASSES[self.layout]} for the layout {self.layout}, not {self.classes}")
        if not 0 <= self.broken_share < 1:
            raise ValueError(f"broken_share must be 0 … 1, not {self.broken_share}")

    @property
    def zero_is_nothing(self) -> bool:
        """Whether label 0 stands for "no label" and class c is stored as c + 1, as in ADE20K."""
        return self.layout in ("ade20k", "scenes")


@dataclass(frozen=True)
class NetworkConfig:
    backbone: str = "resnet50"
    """timm's name that the checkpoint's backbone must have."""
    output_stride: Literal[8, 16, 32] = 32
    """ResNet: input pixels per pixel of the last map; dilation stands for the strides that are left out."""
    contract_dilation: bool = True
    """ResNet: the first block of a dilated stage has the dilation of the stage before, as in torchvision."""
    taps: tuple[int, ...] = (3, 5, 7, 11)
    """ViT: the blocks whose outputs the head sees, counted from 0."""
    final_norm: bool = False
    """ViT: whether the norm after the last block belongs to the last tap."""
    drop_path: float = 0.0
    """ViT: stochastic depth, largest rate (of the last block)."""
    frozen: bool = False
    """Whether the backbone's weights, and the statistics of its batch norms, stay as they are."""

    def __post_init__(self) -> None:
        if not self.taps or list(self.taps) != sorted(set(self.taps)) or self.taps[0] < 0:
            raise ValueError(f"taps must be ascending block numbers from 0, not {list(self.taps)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be 0 … 1, not {self.drop_path}")
        if self.frozen and self.drop_path:
            raise ValueError(f"drop_path must be 0 for a frozen backbone, not {self.drop_path}")


@dataclass(frozen=True)
class HeadConfig:
    kind: Literal["fcn", "upernet", "semfpn", "linear"] = "upernet"
    """`fcn`: convolutions on the last map; `upernet`; `semfpn`: Semantic FPN; `linear`: one 1×1 convolution on all
    taps, resized to the first and concatenated."""
    channels: int = 512
    """Width of the head; `linear` has that of its input."""
    convs: int = 2
    """fcn: number of 3×3 convolutions."""
    dilation: int = 1
    """fcn: dilation of its 3×3 convolutions."""
    concat_input: bool = True
    """fcn: whether the classifier sees the head's input beside the convolutions' output."""
    every_map: bool = False
    """fcn: whether it sees all maps, resized to the first and concatenated, instead of the last alone."""
    dropout: float = 0.1
    """Rate before the classifier."""
    auxiliary: float = 0.4
    """Loss weight of an auxiliary FCN head (one 3×3 convolution, 256 channels) on the last map but one; 0: none."""
    align_corners: bool = False
    """How maps are resized: whether corner pixels' centres are held in place."""

    def __post_init__(self) -> None:
        for key in ("channels", "convs", "dilation"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 … 1, not {self.dropout}")
        if self.auxiliary < 0:
            raise ValueError(f"auxiliary must be 0 or more, not {self.auxiliary}")


@dataclass(frozen=True)
class SegmentOptimConfig:
    name: Literal["sgd", "adamw"] = "adamw"
    """SGD with momentum .9, or AdamW with betas (.9, .999)."""
    lr: float = 1e-4
    """Peak learning rate at the protocol's batch; `--batch` scales it, an override doesn't."""
    weight_decay: float = 0.05
    """Weight decay."""
    decay_norms: bool = True
    """Whether norms and position embeddings decay too; where there is a layer decay, no vector does."""
    layer_decay: float | None = None
    """ViT: factor of the learning rate from each block to the one before it; none: the same rate everywhere."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, not {self.weight_decay}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")


@dataclass(frozen=True)
class SegmentScheduleConfig:
    iterations: int = 160_000
    """Optimiser steps."""
    processes: int = 1
    """Processes (GPUs) among which `batch` is meant to be shared. With fewer, each keeps its share of it, and learning
    rate and iterations follow by the linear rule, unless `--batch` is given."""
    warmup: int = 1500
    """Iterations of linear warm-up from 1e-6 of the rate; 0: none."""
    power: float | None = 1.0
    """Of the polynomial decay (1 − t)^power; none: steps instead."""
    least_lr: float = 0.0
    """Where the polynomial decay ends."""
    steps: tuple[int, ...] = ()
    """Iterations after which the rate is divided by 10, for a schedule without a power."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, not {self.processes}")
        if not 0 <= self.warmup < self.iterations:
            raise ValueError(f"warmup must be 0 … iterations ({self.iterations}), not {self.warmup}")
        if (self.power is None) != bool(self.steps):
            raise ValueError(f"give either a power or steps, not power {self.power} and steps {list(self.steps)}")
        if list(self.steps) != sorted(set(self.steps)) or (self.steps and self.steps[-1] >= self.iterations):
            raise ValueError(f"steps must ascend and end before iterations ({self.iterations}), not {list(self.steps)}")


@dataclass(frozen=True)
class CropConfig:
    size: int = 512
    """Side of the training crops in pixels."""
    scale: tuple[int, int] | None = (2048, 512)
    """Images are fitted into this (longer, shorter side) before the random ratio; none: they keep their size."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Least and largest random factor on it."""
    most_of_one_class: float = 0.75
    """A crop in which one class has a larger share is drawn again, up to ten times; 1: any crop will do."""
    photometric: bool = True
    """Whether brightness, contrast, saturation and hue are distorted."""

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"size must be at least 16, not {self.size}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (least, largest), both positive, not {list(self.ratio)}")
        if not 0 < self.most_of_one_class <= 1:
            raise ValueError(f"most_of_one_class must be above 0 and at most 1, not {self.most_of_one_class}")


@dataclass(frozen=True)
class InferenceConfig:
    mode: Literal["whole", "slide"] = "whole"
    """The whole image at once, or windows of the crops' size whose logits are averaged."""
    stride: int = 341
    """slide: pixels from window to window."""
    scale: tuple[int, int] | None = (2048, 512)
    """Images are fitted into this (longer, shorter side), and the logits resized back; none: they keep their size."""
    batch: int = 1
    """Images per forward pass and process; above 1 all images must be of one size."""

    def __post_init__(self) -> None:
        for key in ("stride", "batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")


@dataclass(frozen=True)
class SegmentConfig:
    name: str = "ade20k_upernet_r50_160k"
    """The protocol's name, under which results are compared."""
    kind: Literal["segmentation"] = "segmentation"
    """Kind of evaluation."""
    scaled_down: bool = False
    """True if it is made for small machines: no paper has numbers of it."""
    data: SegmentDataConfig = field(default_factory=SegmentDataConfig)
    """What is segmented."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """What is taken of the backbone."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """What is put on top."""
    optim: SegmentOptimConfig = field(default_factory=SegmentOptimConfig)
    """How it is trained."""
    schedule: SegmentScheduleConfig = field(default_factory=SegmentScheduleConfig)
    """For how long, with which learning rates."""
    crop: CropConfig = field(default_factory=CropConfig)
    """What the network sees in training."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """How it is tested."""
    batch: int = 16
    """Training images per step over all processes."""
    sync_norm: bool = True
    """Whether batch norms share their statistics among processes."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of training (autocast below float32; float16 on GPUs only); tests are in float32."""
    log_every: int = 50
    """Iterations between two lines about the loss."""
    checkpoint_every: int = 2000
    """Iterations between two checkpoints, from which a killed run goes on."""

    def __post_init__(self) -> None:
        check_name(self.name)
        for key in ("batch", "log_every", "checkpoint_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
        if self.batch % self.schedule.processes:
            shared = f"among schedule.processes {self.schedule.processes}"
            raise ValueError(f"batch {self.batch} can't be shared evenly {shared}; set both")
        if self.head.kind == "linear" and self.head.auxiliary:
            raise ValueError("head.auxiliary must be 0 for the linear head, which has no auxiliary one")
        if self.inference.mode == "slide" and self.inference.stride > self.crop.size:
            raise ValueError(f"inference.stride must be at most crop.size ({self.crop.size}), or pixels are left out")


def measured_settings(config: SegmentConfig) -> dict[str, Any]:
    """Every setting by its whole key (`optim.lr`), without the neutral ones: what equal measurements have in common."""
    return {
        key: value for key, value in flat(to_dict(config)).items() if key not in PERFORMANCE_KEYS | LABELS - {"name"}
    }
