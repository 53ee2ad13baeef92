"""The settings of a segmentation protocol: data, network, head, optimiser, schedule, crops, inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from core.compute.precision import OLD_NAMES, Precision
from core.config import check_at_least_one
from core.data.scenes.render import ScenesConfig
from evaluate.common.protocol import ProtocolConfig

CLASSES = {"scenes": 9, "voc12aug": 21, "cityscapes": 19}
"""Number of classes of the layouts that fix it."""


@dataclass(frozen=True)
class SegmentDataConfig:
    layout: Literal["scenes", "ade20k", "voc12aug", "cityscapes"] = "ade20k"
    """Directory layout. `scenes` are rendered on first use in ADE20K's layout."""
    root: str = ""
    """Folder of the data set: ADEChallengeData2016, VOCdevkit (or VOC2012 in it), cityscapes; empty for scenes."""
    classes: int = 150
    """Number of classes, without the ignored label."""
    first_label: Literal[0, 1] | None = None
    """Label of the first class in layout `ade20k`: 1 (0 means "no label") or 0; null: 1, as in ADE20K."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Appearance of the built-in scenes; no effect on other layouts."""
    broken_share: float = 0.001
    """Largest share of a split's samples that may have an image or label that can't be decoded."""

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= 254:
            raise ValueError(f"classes must be 2 … 254, not {self.classes}")
        if self.classes != CLASSES.get(self.layout, self.classes):
            raise ValueError(f"classes must be {CLASSES[self.layout]} for the layout {self.layout}, not {self.classes}")
        if self.first_label is not None and self.layout != "ade20k":
            raise ValueError(f"first_label applies to the layout ade20k; the layout {self.layout} fixes its labels")
        if not 0 <= self.broken_share < 1:
            raise ValueError(f"broken_share must be 0 … 1, not {self.broken_share}")

    @property
    def reduce_zero_label(self) -> bool:
        """True if label 0 means "no label" and class c is stored as c + 1, as in ADE20K."""
        return self.layout == "scenes" or (self.layout == "ade20k" and self.first_label != 0)


@dataclass(frozen=True)
class NetworkConfig:
    backbone: str = "resnet50"
    """Name in timm that the checkpoint's backbone must have; `any` for a protocol of every backbone with maps."""
    output_stride: Literal[8, 16, 32] = 32
    """ResNet: input pixels per pixel of the last map; dilation replaces the omitted strides."""
    contract_dilation: bool = True
    """ResNet: the first block of a dilated stage has the dilation of the previous stage, as in torchvision."""
    taps: tuple[int, ...] = (3, 5, 7, 11)
    """ViT: blocks whose outputs feed the head, counted from 0."""
    final_norm: bool = False
    """ViT: applies the norm after the last block to the taps of `final_norm_on`."""
    final_norm_on: Literal["last", "every"] = "last"
    """`last`: to the last tap, which must be the last block; `every`: to each tap, one shared norm (iBOT)."""
    map_norm: bool = False
    """Hierarchical networks that timm builds: a new layer norm behind each map, as for Swin and ConvNeXt."""
    class_token: bool = True
    """ViT: lets the class token take part in attention; false: it is dropped before the first block."""
    drop_path: float = 0.0
    """ViTs and wrapped networks: stochastic depth, rate of the last block."""
    frozen: bool = False
    """Keeps the backbone's weights and the statistics of its batch norms fixed."""

    def __post_init__(self) -> None:
        if not self.taps or list(self.taps) != sorted(set(self.taps)) or self.taps[0] < 0:
            raise ValueError(f"taps must be ascending block numbers from 0, not {list(self.taps)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be 0 … 1, not {self.drop_path}")
        if self.frozen and self.drop_path:
            raise ValueError(f"drop_path must be 0 for a frozen backbone, not {self.drop_path}")
        if self.final_norm_on == "every" and not self.final_norm:
            raise ValueError("final_norm must be true with final_norm_on every")


@dataclass(frozen=True)
class HeadConfig:
    kind: Literal["fcn", "upernet", "semfpn", "linear"] = "upernet"
    """`fcn`: convolutions on the last map; `upernet`; `semfpn`: Semantic FPN; `linear`: one 1×1 convolution on all
    taps, resized to the first and concatenated."""
    channels: int = 512
    """Width of the head; `linear` uses the width of its input."""
    convs: int = 2
    """fcn: number of 3×3 convolutions."""
    dilation: int = 1
    """fcn: dilation of its 3×3 convolutions."""
    concat_input: bool = True
    """fcn: feeds the head's input to the classifier in addition to the convolutions' output."""
    every_map: bool = False
    """fcn: takes all maps, resized to the first and concatenated, instead of only the last."""
    dropout: float = 0.1
    """Dropout rate before the classifier."""
    auxiliary: float = 0.4
    """Loss weight of an auxiliary FCN head (one 3×3 convolution, 256 channels) on the second-to-last map; 0: none."""
    pyramid: bool = True
    """semfpn, upernet on a ViT: resizes the taps to strides 4, 8, 16 and 32; false: all stay at the patches' stride."""
    align_corners: bool = False
    """Aligns the centres of the corner pixels when maps are resized."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "channels", "convs", "dilation")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 … 1, not {self.dropout}")
        if self.auxiliary < 0:
            raise ValueError(f"auxiliary must be 0 or more, not {self.auxiliary}")


@dataclass(frozen=True)
class SegmentOptimConfig:
    name: Literal["sgd", "adamw"] = "adamw"
    """SGD with momentum .9, or AdamW with betas (.9, .999)."""
    lr: float = 1e-4
    """Peak learning rate at the protocol's batch; scaled by `--batch`, not by an override of `batch`."""
    weight_decay: float = 0.05
    """Weight decay."""
    decay_norms: bool = True
    """Applies weight decay to norms; with a layer decay no vector decays."""
    decay_embeddings: bool | None = None
    """ViT: applies weight decay to position embeddings and class token; null: as `decay_norms`."""
    layer_decay: float | None = None
    """Ratio of the learning rates of a layer of the backbone and the next one; null: the same rate everywhere."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, not {self.weight_decay}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")


@dataclass(frozen=True)
class SegmentScheduleConfig:
    RENAMED: ClassVar[Mapping[str, str]] = {"least_lr": "min_lr"}
    iterations: int = 160_000
    """Optimiser steps."""
    processes: int = 1
    """Processes (GPUs) that share `batch`. With fewer, each keeps its share, and learning rate and iterations follow by
    the linear rule, unless `--batch` is given."""
    warmup: int = 1500
    """Iterations of linear warm-up from 1e-6 of the learning rate; 0: none."""
    power: float | None = 1.0
    """Exponent of the polynomial decay (1 − t)^power; null: steps instead."""
    decay_under_warmup: bool = False
    """Begins the polynomial decay at the first iteration, so that both factors apply during the warm-up, as
    MMSegmentation 0.x does; false: after the warm-up."""
    min_lr: float = 0.0
    """Learning rate at the end of the polynomial decay."""
    steps: tuple[int, ...] = ()
    """Iterations after which the learning rate is divided by 10, for a schedule without a power."""

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
    RENAMED: ClassVar[Mapping[str, str]] = {"most_of_one_class": "cat_max_ratio"}
    size: int = 512
    """Side of the training crops in pixels."""
    scale: tuple[int, int] | None = (2048, 512)
    """(longer, shorter side) in pixels into which images are fitted before the random ratio; null: own size."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest random factor applied to that size."""
    cat_max_ratio: float = 0.75
    """Largest share of one class in a crop; other crops are redrawn up to ten times; 1: accepts any crop."""
    photometric: bool = True
    """Distorts brightness, contrast, saturation and hue."""

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"size must be at least 16, not {self.size}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (smallest, largest), both positive, not {list(self.ratio)}")
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio must be above 0 and at most 1, not {self.cat_max_ratio}")


@dataclass(frozen=True)
class InferenceConfig:
    mode: Literal["whole", "slide"] = "whole"
    """`whole`: the whole image at once; `slide`: windows of the crop size whose logits are averaged."""
    stride: int = 341
    """slide: pixels between windows."""
    scale: tuple[int, int] | None = (2048, 512)
    """(longer, shorter side) in pixels into which images are fitted; logits are resized back; null: own size."""
    batch: int = 1
    """Images per forward pass and process; 1 is used if the images differ in size."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "stride", "batch")


@dataclass(frozen=True)
class SegmentConfig(ProtocolConfig):
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"precision": OLD_NAMES}
    name: str = "ade20k_upernet_r50_160k"
    """Name of the protocol, under which results are compared."""
    kind: Literal["segmentation"] = "segmentation"
    """Kind of evaluation."""
    data: SegmentDataConfig = field(default_factory=SegmentDataConfig)
    """Images and labels."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Backbone and the maps it provides."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Segmentation head."""
    optim: SegmentOptimConfig = field(default_factory=SegmentOptimConfig)
    """Optimiser."""
    schedule: SegmentScheduleConfig = field(default_factory=SegmentScheduleConfig)
    """Iterations and learning rate schedule."""
    crop: CropConfig = field(default_factory=CropConfig)
    """Augmentation of the training images."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """Prediction of the test images."""
    batch: int = 16
    """Training images per step over all processes."""
    sync_norm: bool = True
    """Shares the statistics of batch norms among processes."""
    precision: Precision = "fp32"
    """Precision of training (autocast below fp32; fp16 on GPUs only); tests run in fp32."""
    log_every: int = 50
    """Iterations between two log lines."""
    checkpoint_every: int = 2000
    """Iterations between two checkpoints, from which a killed run resumes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "batch", "log_every", "checkpoint_every")
        if self.batch % self.schedule.processes:
            shared = f"among schedule.processes {self.schedule.processes}"
            raise ValueError(f"batch {self.batch} can't be shared evenly {shared}; set both")
        if self.head.kind == "linear" and self.head.auxiliary:
            raise ValueError("head.auxiliary must be 0 for the linear head, which has no auxiliary head")
        if self.inference.mode == "slide" and self.inference.stride > self.crop.size:
            raise ValueError(f"inference.stride must be at most crop.size ({self.crop.size}), or pixels are skipped")
