"""Destinations: a backbone under another library's names, written as that library's own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from converters.detectron2_file import write_detectron2
from converters.key_maps import detectron2, torchvision
from converters.key_table import KeyTable
from converters.mmseg_backbone import backbone_settings, mmseg_names
from converters.torchvision_model import torchvision_model
from core.backbones import Backbone, check_weights, describe, family_of
from core.errors import UserError
from core.files.atomic_file import write_atomically

Destination = Literal["detectron2", "mmseg", "torchvision", "timm"]

# Of MMSegmentation's settings: what a recipe decides.
_LEFT_TO_THE_USER = ("init_cfg", "norm_eval", "out_indices", "strides", "dilations", "drop_path_rate")

SUFFIXES: dict[Destination, tuple[str, ...]] = {
    "detectron2": (".pkl",),
    "mmseg": (".pth",),
    "torchvision": (".pth", ".pt", ".safetensors"),
    "timm": (".pth", ".pt", ".safetensors"),
}


def write_for(backbone: Backbone, table: KeyTable, to: Destination, out: Path) -> KeyTable:
    """Writes the backbone to `out` under the names of `to`; `table` is the report of reading it.

    Returns the report from the file that was read to the file that was written. Raises `UserError` where the library
    has no such network, and where it has no place for one of the tensors.
    """
    check_weights(backbone, "convert")
    if out.suffix not in SUFFIXES[to]:
        raise UserError(f"a file for {to} ends with {' or '.join(SUFFIXES[to])}, {out} does not; change --out")
    names = _names(backbone, to)
    state = backbone.model.state_dict()
    tensors = {names[name]: tensor for name, tensor in state.items()}
    if to == "detectron2":
        write_detectron2(out, tensors)
    elif to == "mmseg":
        # OpenMMLab's loaders take both this and a bare state dict; this one says whose it is.
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        document = {"meta": {"author": "ssl-transfer"}, "state_dict": plain}
        write_atomically(out, lambda partial: torch.save(document, partial))
    else:
        _write_tensors(out, tensors)
    return table.compose(names)


def usage(backbone: Backbone, to: Destination, out: Path) -> str:
    """Instructions for loading the file in the library, with the settings whose defaults would be wrong."""
    mean, std = backbone.config.mean, backbone.config.std
    if to == "detectron2":
        text = (
            f"MODEL.WEIGHTS {out}, INPUT.FORMAT RGB, MODEL.PIXEL_MEAN {_times_255(mean)}, "
            f"MODEL.PIXEL_STD {_times_255(std)}"
        )
        if family_of(backbone.model).architecture != "resnet":
            return text + f"; the names are timm's, for a backbone that wraps timm's {backbone.config.name}"
        text += ", MODEL.RESNETS.STRIDE_IN_1X1 False"
        basic = not hasattr(backbone.model.layer1[0], "conv3")  # type: ignore[index]
        return text + (", MODEL.RESNETS.RES2_OUT_CHANNELS 64" if basic else "")
    if to == "mmseg":
        settings = backbone_settings(backbone.config, backbone.model)
        left = (*_LEFT_TO_THE_USER, "norm_cfg") if settings["type"] == "ResNet" else _LEFT_TO_THE_USER
        named = ", ".join(f"{key}={value!r}" for key, value in settings.items() if key not in left)
        return (
            f"backbone=dict({named}, init_cfg=dict(type='Pretrained', checkpoint={str(out)!r})), "
            f"data_preprocessor with mean={_times_255(mean)}, std={_times_255(std)}, bgr_to_rgb=True"
        )
    if to == "torchvision":
        return f"load_state_dict(…, strict=False), only the head may be missing; mean {list(mean)}, std {list(std)}"
    return f"timm.create_model({backbone.config.name!r}, num_classes=0, checkpoint_path={str(out)!r})" + (
        f" with {describe(backbone.config)}" if backbone.config.args or backbone.config.stem != "imagenet" else ""
    )


def _times_255(values: tuple[float, ...]) -> list[float]:
    return [round(255 * value, 3) for value in values]


def _names(backbone: Backbone, to: Destination) -> dict[str, str]:
    """timm's name -> the library's, for every tensor of the backbone."""
    state: Mapping[str, Any] = backbone.model.state_dict()
    architecture = family_of(backbone.model).architecture
    if to == "timm" or (to == "detectron2" and architecture != "resnet"):
        return {name: name for name in state}
    if to == "mmseg":
        return mmseg_names(backbone.config, backbone.model)
    if to == "torchvision":
        torchvision_model(backbone.config, backbone.model)  # refuses what torchvision doesn't have
        key_map = torchvision.VIT if architecture == "vit" else torchvision.RESNET
    else:
        if backbone.config.stem != "imagenet":
            raise UserError(
                f"Detectron2's ResNets have a 7×7 stem with max pooling, {describe(backbone.config)} differs from that"
            )
        key_map = detectron2.RESNET
    found = {name: key_map.from_timm(name) for name in state}
    left = [name for name, new in found.items() if new is None]
    if left:
        raise UserError(
            f"{to} has no place for {len(left)} tensors of {describe(backbone.config)}: {', '.join(left[:3])}"
            f"{', …' if len(left) > 3 else ''}"
        )
    return {name: new for name, new in found.items() if new is not None}


def _write_tensors(out: Path, tensors: Mapping[str, Tensor]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if out.suffix == ".safetensors":
        from safetensors.torch import save_file

        write_atomically(out, lambda partial: save_file(dict(tensors), partial))
    else:
        write_atomically(out, lambda partial: torch.save(tensors, partial))
