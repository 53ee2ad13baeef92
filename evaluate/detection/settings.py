"""Settings of a detection protocol: data, detector, training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.config import check_at_least_one
from core.data.scenes.render import ScenesConfig
from evaluate.common.protocol import ProtocolConfig
from evaluate.detection.model.designs import design_named

Norm = Literal["", "BN", "SyncBN", "naiveSyncBN", "LN"]
SOURCES = "scenes, coco:FOLDER, voc:FOLDER"


@dataclass(frozen=True)
class DetectionDataConfig:
    source: str = "coco:data/coco"
    """`coco:ROOT` (ROOT/train2017, val2017, annotations/instances_*.json), `voc:ROOT` (ROOT/VOC2007, VOC2012) or
    `scenes`, rendered on first use in COCO's layout."""
    scenes: ScenesConfig = field(default_factory=lambda: ScenesConfig(objects=(2, 6), radius=(0.1, 0.28)))
    """Appearance of the built-in scenes; no effect on other sources."""
    short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    """Shorter side of a training image in pixels, drawn from these."""
    longest: int = 1333
    """Longest side allowed for training and test images, in pixels."""
    test_short_side: int = 800
    """Shorter side of a test image in pixels."""
    large_scale_jitter: int | None = None
    """Replaces `short_sides`: images are scaled to fit a square of this many pixels, times 0.1 … 2, and cropped to it;
    masks are then trained on as bitmaps. A ViT sees all images, test images included, padded to the square on the right
    and below."""
    mask_format: Literal["polygon", "bitmask"] = "polygon"
    """Form of the masks in training; `bitmask` allows run lengths."""
    broken_share: float = 0.001
    """Largest share of missing, undecodable or wrongly sized images, and of impossible objects."""

    def __post_init__(self) -> None:
        kind, _, place = self.source.partition(":")
        if kind not in ("scenes", "coco", "voc") or (kind == "scenes") == bool(place):
            raise ValueError(f"source must be one of {SOURCES}, not {self.source!r}")
        if not self.short_sides or min(*self.short_sides, self.longest, self.test_short_side) < 32:
            raise ValueError("short_sides, longest and test_short_side must be at least 32 pixels")
        if self.large_scale_jitter is not None and self.large_scale_jitter < 32:
            raise ValueError(f"large_scale_jitter must be at least 32 pixels or null, not {self.large_scale_jitter}")
        if not 0 <= self.broken_share < 1:
            raise ValueError(f"broken_share must be 0 … 1, not {self.broken_share}")

    @property
    def kind(self) -> str:
        """`coco`, `voc` or `scenes`."""
        return self.source.partition(":")[0]


@dataclass(frozen=True)
class DetectorConfig:
    design: str = "resnet_fpn"
    """`resnet_fpn`: feature pyramid on Detectron2's ResNet. `resnet_c4`: one map (res4), res5 is the head.
    `stages_fpn`: feature pyramid on the maps of strides 4 … 32 of any hierarchical network of timm, ResNets included.
    `vit_fpn`: `taps` of a ViT with patches of any size, resized to four strides below a feature pyramid. `vit_simple`:
    the same without the top-down path, the two finest taps narrowed to a quarter and a half of the channels."""
    masks: bool = True
    """True: Mask R-CNN; false: Faster R-CNN."""
    norm: Norm = "SyncBN"
    """Norm in a ResNet and in a C4 head after res5; for a ViT in the layers that resize its taps. `stages_fpn`: LN adds
    a layer norm to each map, SyncBN shares the statistics of the network's own batch norms among processes.
    `naiveSyncBN` is Detectron2's own synchronised batch norm, in which every process counts the same."""
    pyramid_norm: Norm = ""
    """Norm in the feature pyramid."""
    head_norm: Norm = ""
    """Norm in the convolutions of box and mask heads."""
    extra_norm: bool = False
    """C4: one more norm after res5."""
    freeze_at: int = 0
    """ResNet: number of frozen parts, counted from the stem."""
    taps: tuple[int, ...] = (3, 5, 7, 11)
    """ViT: blocks, counted from 0, whose outputs become strides 4, 8, 16 and 32."""
    class_token: bool = True
    """ViT: lets the class token take part in attention; false: it is dropped before the first block."""
    drop_path: float = 0.0
    """Stochastic depth rate of timm's networks."""
    frozen: bool = False
    """Keeps the backbone's weights and the statistics of its norms fixed; the rest of the detector is trained."""
    pyramid_width: int = 256
    """Channels of the pyramid's maps."""
    rpn_convs: int = 1
    """Convolutions of the proposal network before its two outputs."""
    box_convs: int = 0
    """Convolutions of the box head (256 channels, at most `pyramid_width`)."""
    box_fcs: int = 2
    """Fully connected layers of the box head."""
    box_width: int = 1024
    """Width of the box head's fully connected layers."""
    mask_convs: int = 4
    """Convolutions of the mask head of a pyramid."""
    mask_width: int = 256
    """Channels of the mask head."""
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sides of the anchors in pixels: one for each pyramid level, or all on C4's one map."""
    proposals: tuple[int, int, int, int] = (2000, 1000, 1000, 1000)
    """Proposals before suppression in training and test (per level), and after it in training and test."""
    rois: int = 512
    """Regions per image on which the heads are trained."""

    def __post_init__(self) -> None:
        design = design_named(self.design)
        design.check_settings(self)
        if self.extra_norm and design.pyramid:
            raise ValueError("extra_norm is for design resnet_c4")
        if len(self.taps) != 4 or min(self.taps) < 0 or list(self.taps) != sorted(self.taps):
            raise ValueError(f"taps must be four block numbers in ascending order, not {list(self.taps)}")
        if design.pyramid and len(self.anchors) != 5:
            raise ValueError(f"anchors must be five sides, for p2 … p6, not {list(self.anchors)}")
        if not 0 <= self.freeze_at <= 5:
            raise ValueError(f"freeze_at must be 0 … 5, not {self.freeze_at}")
        if not 0 <= self.drop_path < 1 or (self.drop_path and self.frozen):
            raise ValueError(f"drop_path must be at least 0 and below 1, and 0 if frozen, not {self.drop_path}")
        counts = (self.pyramid_width, self.rpn_convs, self.box_width, self.mask_width, *self.proposals, self.rois)
        if min(counts, default=0) < 1 or min(self.box_convs, self.mask_convs) < 0 or self.box_fcs < 1:
            raise ValueError("widths, rpn_convs, box_fcs, proposals and rois must be at least 1, convs at least 0")


@dataclass(frozen=True)
class SolverConfig:
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW with betas 0.9 and 0.999."""
    lr: float = 0.02
    """Peak learning rate at `batch`."""
    weight_decay: float = 1e-4
    """Weight decay of all but norms; AdamW: of matrices only, not of biases, norms, position embeddings and tokens."""
    layer_decay: float = 1.0
    """Learning rate of each layer of the backbone relative to the next one's; 1: the same everywhere."""
    batch: int = 16
    """Images per step over all processes for which the other values are meant."""
    processes: int = 1
    """Processes (GPUs) that share `batch`. With fewer, each keeps its share, and learning rate and steps are scaled by
    the linear rule, unless `global_batch` is set."""
    global_batch: int | None = None
    """Images per step in this run; learning rate and steps are scaled. Null: from `batch` and `processes`."""
    iterations: int = 90_000
    """Training steps."""
    steps: tuple[int, ...] = (60_000, 80_000)
    """Steps after which the learning rate is divided by 10."""
    schedule: float = 1.0
    """Factor of `iterations` and `steps`: 2 turns a 1x protocol into 2x."""
    warmup: int = 1000
    """Steps of linear warm-up from a thousandth."""
    precise_bn: int = 0
    """Batches over which the statistics of batch norms are averaged after training; 0: keep the running ones."""
    amp: bool = False
    """Mixed precision in training; CUDA only."""
    checkpoint_every: int = 5000
    """Steps between two saved states."""
    log_every: int = 20
    """Steps between two progress lines."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "batch", "processes", "iterations", "checkpoint_every", "log_every")
        if self.batch % self.processes:
            raise ValueError(f"batch {self.batch} can't be shared evenly among processes {self.processes}; set both")
        if self.global_batch is not None and self.global_batch < 1:
            raise ValueError(f"global_batch must be at least 1 or null, not {self.global_batch}")
        for key in ("lr", "schedule"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key} must be positive, not {getattr(self, key)}")
        if min(self.weight_decay, self.warmup, self.precise_bn) < 0:
            raise ValueError("weight_decay, warmup and precise_bn must be 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")
        if list(self.steps) != sorted(set(self.steps)) or (self.steps and not 0 < self.steps[0] <= self.steps[-1]):
            raise ValueError(f"steps must be positive and ascending, not {list(self.steps)}")
        if self.steps and self.steps[-1] >= self.iterations:
            raise ValueError(f"steps must come before the last iteration {self.iterations}, not {list(self.steps)}")


@dataclass(frozen=True)
class DetectionConfig(ProtocolConfig):
    name: str = "coco_maskrcnn_r50_fpn_1x_mulan"
    """Protocol name under which results are compared."""
    kind: Literal["detection"] = "detection"
    """Kind of evaluation."""
    data: DetectionDataConfig = field(default_factory=DetectionDataConfig)
    """Images and boxes."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """Detector built on the backbone."""
    solver: SolverConfig = field(default_factory=SolverConfig)
    """Training; everything is trained except what `freeze_at` or `frozen` names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.source.startswith("voc") and self.detector.masks:
            raise ValueError("detector.masks must be false with data.source voc:…, which has boxes only")
        if self.solver.layer_decay != 1 and self.solver.optimiser != "adamw":
            raise ValueError("solver.layer_decay is for solver.optimiser adamw")
