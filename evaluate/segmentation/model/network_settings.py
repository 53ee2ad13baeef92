"""The `model` section of an MMSegmentation config: backbone, neck, heads, input normalisation, inference."""

from __future__ import annotations

from typing import Any

from converters.mmseg_backbone import backbone_settings
from core.backbones import Backbone
from core.errors import UserError
from evaluate.segmentation.data.labels import IGNORED
from evaluate.segmentation.protocol import SegmentConfig

_DILATION = {8: ([1, 2, 1, 1], [1, 1, 2, 4]), 16: ([1, 2, 2, 1], [1, 1, 1, 2]), 32: ([1, 2, 2, 2], [1, 1, 1, 1])}


def model_settings(config: SegmentConfig, backbone: Backbone, norm: str) -> dict[str, Any]:
    """Settings of the protocol's EncoderDecoder around the backbone; `norm` is BN or SyncBN.

    Raises `UserError` if the backbone is not the protocol's, or MMSegmentation has no such network.
    """
    if backbone.config.name != config.network.backbone:
        raise UserError(
            f"{config.name} expects a {config.network.backbone}, {backbone.source} is a {backbone.config.name}; "
            f"choose another protocol or set network.backbone={backbone.config.name}"
        )
    norm_cfg = {"type": norm, "requires_grad": True}
    settings = _backbone(config, backbone, norm_cfg)
    if settings["type"] == "ResNet":
        expansion = 4 if settings["depth"] >= 50 else 1
        widths = [expansion * settings["base_channels"] * 2**stage for stage in range(4)]
    else:
        widths = [settings["embed_dims"]] * len(config.network.taps)
    neck = _neck(config, widths, settings["type"] != "ResNet" and config.head.pyramid, norm_cfg)
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


def _backbone(config: SegmentConfig, backbone: Backbone, norm_cfg: dict[str, Any]) -> dict[str, Any]:
    settings, network = backbone_settings(backbone.config, backbone.model), config.network
    if settings["type"] == "ResNet":
        if settings["depth"] < 50 and network.output_stride < 32:
            raise UserError(
                f"network.output_stride={network.output_stride} needs a ResNet with bottlenecks: MMSegmentation "
                f"dilates only one of the two convolutions per block of a {backbone.config.name}, which breaks trained "
                f"weights; set it to 32"
            )
        strides, dilations = _DILATION[network.output_stride]
        return settings | {
            "strides": strides, "dilations": dilations, "contract_dilation": network.contract_dilation,
            "norm_cfg": norm_cfg, "norm_eval": network.frozen,
        }  # fmt: skip
    if network.taps[-1] >= settings["num_layers"]:
        raise UserError(
            f"network.taps contains block {network.taps[-1]}, but {backbone.config.name} has {settings['num_layers']} "
            f"(counted from 0); choose others"
        )
    # Position embeddings are resized to the crops' grid once and trained at that size.
    patch = settings["patch_size"]
    side = -(-config.crop.size // patch) * patch
    layered = config.optim.layer_decay is not None
    kind = "MAEVisionTransformer" if layered else "VisionTransformer"
    if network.final_norm_on == "every":
        kind = "NormedTapsMAEVisionTransformer"
    return settings | {
        "type": kind, "img_size": [side, side], "out_indices": list(network.taps), "final_norm": network.final_norm,
        "drop_path_rate": network.drop_path, "with_cls_token": network.class_token,
    }  # fmt: skip


def _neck(config: SegmentConfig, widths: list[int], vit: bool, norm_cfg: dict[str, Any]) -> Any:
    if config.head.kind not in ("upernet", "semfpn"):
        return None
    if len(widths) != 4:
        raise UserError(f"head.kind={config.head.kind} needs four maps, network.taps has {len(widths)}; list four")
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
