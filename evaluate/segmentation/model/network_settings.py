"""The `model` section of an MMSegmentation config: backbone, neck, heads, input normalisation, inference."""

from __future__ import annotations

from typing import Any

import torch

from converters.engines.dense_maps import check_named
from core.backbones import Backbone, BackboneConfig, build_backbone, check_rgb
from core.errors import UserError
from evaluate.segmentation.data.labels import IGNORED
from evaluate.segmentation.model.adapters import adapter_for
from evaluate.segmentation.protocol import SegmentConfig


def model_settings(config: SegmentConfig, backbone: Backbone, norm: str) -> dict[str, Any]:
    """Settings of the protocol's EncoderDecoder around the backbone; `norm` is BN or SyncBN.

    Raises `UserError` if the backbone is not the protocol's, or MMSegmentation has no such network.
    """
    check_named(backbone)
    check_rgb(backbone)
    if not _same_network(config.network.backbone, backbone):
        raise UserError(
            f"{config.name} expects a {config.network.backbone}, {backbone.source} is a {backbone.config.name}; "
            f"choose another protocol or set network.backbone={backbone.config.name}"
        )
    norm_cfg = {"type": norm, "requires_grad": True}
    adapter = adapter_for(backbone)
    if config.network.map_norm and adapter.native:
        raise UserError(
            f"network.map_norm=true is for networks that timm builds, and {backbone.config.name} is MMSegmentation's "
            f"own here; set it to false"
        )
    settings, widths = adapter.settings(config, backbone, norm_cfg), adapter.widths(config, backbone)
    neck = _neck(config, widths, adapter.plain and config.head.pyramid, norm_cfg)
    model: dict[str, Any] = {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [255 * value for value in backbone.config.mean],
            "std": [255 * value for value in backbone.config.std],
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": IGNORED,
            "size": (config.crop.size, config.crop.size),
        },
        "backbone": settings,
        "decode_head": _head(config, [256] * 4 if config.head.kind == "semfpn" else widths, norm_cfg),
        "train_cfg": {},
        "test_cfg": {"mode": config.inference.mode},
    }
    if neck:
        model["neck"] = neck
    if config.head.auxiliary:
        # Semantic FPN's neck outputs 256 channels at every level.
        width = 256 if config.head.kind == "semfpn" else widths[-2]
        model["auxiliary_head"] = _fcn(config, width, len(widths) - 2, 256, 1, False, norm_cfg, config.head.auxiliary)
    if config.inference.mode == "slide":
        size, stride = config.crop.size, config.inference.stride
        model["test_cfg"] |= {"crop_size": (size, size), "stride": (stride, stride)}
    return model


def _same_network(name: str, backbone: Backbone) -> bool:
    """True for `any`, and for timm's model `name`, also where it was opened under another name with the same tensors.

    Position embeddings may be those of another image size.
    """
    if name in (backbone.config.name, "any"):
        return True
    try:
        with torch.device("meta"):
            wanted = build_backbone(BackboneConfig(name)).state_dict()
    except UserError:
        return False
    own = backbone.model.state_dict()
    return own.keys() == wanted.keys() and all(
        tensor.shape == own[key].shape for key, tensor in wanted.items() if key != "pos_embed"
    )


def _neck(config: SegmentConfig, widths: list[int], vit: bool, norm_cfg: dict[str, Any]) -> Any:
    if config.head.kind not in ("upernet", "semfpn"):
        return None
    if len(widths) != 4:
        raise UserError(
            f"head.kind={config.head.kind} needs four maps, there are {len(widths)}; list four blocks of a ViT in "
            f"network.taps, or take another head"
        )
    pyramid = {"type": "Feature2Pyramid", "embed_dim": widths[0], "rescales": [4, 2, 1, 0.5], "norm_cfg": norm_cfg}
    fpn = {"type": "FPN", "in_channels": widths, "out_channels": 256, "num_outs": 4}
    if config.head.kind == "upernet":
        return pyramid if vit else None
    return [pyramid, fpn] if vit else fpn


def _head(config: SegmentConfig, widths: list[int], norm_cfg: dict[str, Any]) -> dict[str, Any]:
    head, last = config.head, len(widths) - 1
    all_maps = {"in_index": list(range(len(widths))), "in_channels": widths}
    if head.kind == "fcn":
        convs, concat, dilation = head.convs, head.concat_input, head.dilation
        fcn = _fcn(config, widths[last], last, head.channels, convs, concat, norm_cfg, 1.0, dilation)
        return fcn | all_maps | {"input_transform": "resize_concat"} if head.every_map else fcn
    if head.kind == "linear":
        return _common(config, norm_cfg, 1.0) | all_maps | {
            "type": "FCNHead", "input_transform": "resize_concat", "channels": sum(widths), "num_convs": 0,
            "concat_input": False,
        }  # fmt: skip
    if head.kind == "semfpn":
        return _common(config, norm_cfg, 1.0) | all_maps | {
            "type": "FPNHead", "channels": head.channels, "feature_strides": [4, 8, 16, 32],
        }  # fmt: skip
    return _common(config, norm_cfg, 1.0) | all_maps | {
        "type": "UPerHead", "channels": head.channels, "pool_scales": (1, 2, 3, 6),
    }  # fmt: skip


def _fcn(
    config: SegmentConfig,
    width: int,
    index: int,
    channels: int,
    convs: int,
    concat: bool,
    norm_cfg: dict[str, Any],
    weight: float,
    dilation: int = 1,
) -> dict[str, Any]:
    return _common(config, norm_cfg, weight) | {
        "type": "FCNHead", "in_channels": width, "in_index": index, "channels": channels, "num_convs": convs,
        "concat_input": concat, "dilation": dilation,
    }  # fmt: skip


def _common(config: SegmentConfig, norm_cfg: dict[str, Any], weight: float) -> dict[str, Any]:
    return {
        "num_classes": config.data.classes, "dropout_ratio": config.head.dropout, "norm_cfg": norm_cfg,
        "align_corners": config.head.align_corners, "ignore_index": IGNORED,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight},
    }  # fmt: skip
