"""Layers that Detectron2 0.6 lacks: layer norms, ResNets of any width, C4's extra norm, heads with layer norm.

Names of norms are resolved here, too, because SyncBN depends on the hardware.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.roi_heads import Res5ROIHeads

from converters.engines.detectron2_resnet import detectron2_resnet
from core.distributed import Processes
from evaluate.detection.model.designs.base import build_described


def norm_of(name: str) -> Any:
    """Argument for Detectron2's `get_norm`: its own names unchanged, `LN` as a layer norm over channels."""
    if name != "LN":
        return name
    from timm.layers import LayerNorm2d

    return partial(LayerNorm2d, eps=1e-6)


def norm_here(name: str, processes: Processes, heads: bool = False) -> str:
    """Name of the norm layer that implements `name` on these processes.

    SyncBN is torch's on GPUs and Detectron2's own version, naiveSyncBN, among CPU processes (torch has none); both are
    plain BN on a single process. Heads see a different number of regions on each rank; naiveSyncBN_N weights by it.
    """
    if name not in ("SyncBN", "naiveSyncBN"):
        return name
    if processes.world_size == 1:
        return "BN"
    if processes.device.type == "cuda" and name == "SyncBN":
        return "SyncBN"
    return "naiveSyncBN_N" if heads else "naiveSyncBN"


@BACKBONE_REGISTRY.register()
def build_any_resnet_fpn_backbone(cfg: Any, _input_shape: ShapeSpec) -> FPN:
    """A feature pyramid over the ResNet that `MODEL.SSL` describes, of any width and depth."""
    resnet = detectron2_resnet(build_described(cfg.MODEL.SSL), cfg.MODEL.RESNETS.NORM)
    resnet = resnet.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    fpn = cfg.MODEL.FPN
    return FPN(resnet, list(fpn.IN_FEATURES), fpn.OUT_CHANNELS, norm=fpn.NORM, top_block=LastLevelMaxPool())


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """C4's head with one more norm after res5, as in MoCo's detection (arXiv 1911.05722, section 4.2)."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> Any:
        res5, channels = super()._build_res5_block(cfg)
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels


@ROI_BOX_HEAD_REGISTRY.register()
def build_box_head_of_any_norm(cfg: Any, input_shape: ShapeSpec) -> FastRCNNConvFCHead:
    """Detectron2's box head, whose norm may be a layer norm."""
    head = cfg.MODEL.ROI_BOX_HEAD
    convs, fcs = [head.CONV_DIM] * head.NUM_CONV, [head.FC_DIM] * head.NUM_FC
    return FastRCNNConvFCHead(input_shape, conv_dims=convs, fc_dims=fcs, conv_norm=norm_of(head.NORM))


@ROI_MASK_HEAD_REGISTRY.register()
def build_mask_head_of_any_norm(cfg: Any, input_shape: ShapeSpec) -> MaskRCNNConvUpsampleHead:
    """Detectron2's mask head, whose norm may be a layer norm."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNConvUpsampleHead(
        input_shape,
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        conv_dims=[head.CONV_DIM] * (head.NUM_CONV + 1),
        conv_norm=norm_of(head.NORM),
    )
