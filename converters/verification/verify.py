"""The proof of a conversion: the written file, loaded by its library, gives the feature maps of the timm model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.destinations import Destination
from converters.detectron2_file import read_detectron2
from converters.engines import detectron2_compat
from converters.recognise import recognise
from converters.torchvision_model import torchvision_model
from converters.verification.mmseg_verify import verify_mmseg
from core.backbones import Backbone, build_backbone, describe, family_of
from core.checkpoints import read_safetensors, read_tensors
from core.coverage import load_completely
from core.errors import UserError


def verify(backbone: Backbone, to: Destination, out: Path) -> str:
    """Compares feature maps on the same random images and returns one sentence: what was compared and the difference.

    Where Detectron2 or MMSegmentation is not installed, or has no such model, the way back to timm's names is compared
    instead, and the sentence says so. Raises `UserError` where a tensor is lost, where a ResNet's maps
    differ at all, or a ViT's by more than 1e-5 of their range.
    """
    if to == "mmseg":
        return verify_mmseg(backbone, out)
    family = family_of(backbone.model)
    side = family.image_side(backbone.model) or 96
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = feature_maps(backbone.model.eval(), images)
        who, theirs, caveat = _maps_of(backbone, to, out, images)
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    scale = max(float(a.abs().max()) for a in ours)
    if not difference <= family.parity_tolerance * max(scale, 1.0):
        raise UserError(
            f"{out} is not usable: {who} differ from the timm model's by {difference:.3g} of {scale:.3g}; please "
            f"report it with the name of the architecture, {describe(backbone.config)}"
        )
    return f"verified: {who} equal the timm model's (largest difference {difference:.2g} of {scale:.2g}){caveat}"


def feature_maps(model: Any, images: Tensor) -> list[Tensor]:
    """timm's maps after each stage of a ResNet, [B, C, h, w] each; a ViT's tokens after the final norm, [B, T, D]."""
    family = family_of(model)
    if family.dense == "patches":
        tokens = family.tokens(model, images)
        return [torch.cat([tokens.prefix, tokens.patches], dim=1)]
    return [x for _, x in family.maps(model, images)]


def _maps_of(backbone: Backbone, to: Destination, out: Path, images: Tensor) -> tuple[str, list[Tensor], str]:
    """Name of the network that was run, its maps from the written file, and a note on what was not verified."""
    if to == "torchvision":
        model = torchvision_model(backbone.config, backbone.model).eval()
        load_completely(model, _read(out), str(out))
        return "torchvision's feature maps", _torchvision_maps(model, images), ""
    if to == "timm":
        fresh = build_backbone(backbone.config).eval()
        load_completely(fresh, _read(out), str(out))
        return "a fresh timm model's feature maps", feature_maps(fresh, images), ""
    reason = _absent() if family_of(backbone.model).architecture == "resnet" else "it has no ViT of its own"
    if reason:
        again = build_backbone(backbone.config).eval()
        load_completely(again, recognise(read_detectron2(out), str(out), "online").tensors, str(out))
        who = "feature maps of the file, mapped back to timm's names,"
        return who, feature_maps(again, images), f"; no model of Detectron2 was run: {reason}"
    return "Detectron2's feature maps", _detectron2_maps(backbone, out, images), ""


def _read(out: Path) -> dict[str, Tensor]:
    return read_safetensors(out)[0] if out.suffix == ".safetensors" else read_tensors(out)


def _torchvision_maps(model: Any, images: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    parts = [model.encoder] if hasattr(model, "encoder") else [model.layer1, model.layer2, model.layer3, model.layer4]
    handles = [part.register_forward_hook(lambda _module, _inputs, output: maps.append(output)) for part in parts]
    model(images)
    for handle in handles:
        handle.remove()
    return maps


def _absent() -> str:
    """Reason why Detectron2's model can't be run here; empty where it can."""
    detectron2_compat.install_hook()
    try:
        import detectron2.modeling  # noqa: F401
    except ImportError as error:
        return f"it can't be imported here ({error})"
    return ""


def _detectron2_maps(backbone: Backbone, out: Path, images: Tensor) -> list[Tensor]:
    """Maps of Detectron2's ResNet of the same blocks, loaded from `out` by its own checkpointer as in a detector."""
    from detectron2.checkpoint import DetectionCheckpointer

    from converters.engines.detectron2_resnet import detectron2_resnet

    resnet = detectron2_resnet(backbone.model, "BN")
    detector = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": resnet})}).eval()
    DetectionCheckpointer(detector, save_to_disk=False).load(str(out))
    # The checkpointer only logs what it leaves out.
    loaded, written = resnet.state_dict(), read_detectron2(out)["model"]
    lost = [name for name in loaded | written if not _equal(loaded.get(name), written.get(name))]
    if lost:
        raise UserError(
            f"Detectron2 loads {out} in part: {len(lost)} of {len(loaded)} tensors are lost, e.g. {lost[0]}"
        )
    return list(resnet(images).values())


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)
