"""Detectron2: its own ResNets, and a wrapper around timm's network for all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.adapters.base import Adapter, is_timms, names_by, renamed, times_255
from converters.detectron2_file import read_detectron2, write_detectron2
from converters.engines import detectron2_compat
from converters.key_maps.detectron2 import RESNET
from converters.recognise import recognise
from converters.verification.proof import all_maps, feature_maps, prove
from core.backbones import Backbone, build_backbone, describe, family_of
from core.coverage import load_completely
from core.errors import UserError


class Detectron2File(Adapter):
    """A `.pkl` for MODEL.WEIGHTS."""

    library = "detectron2"
    suffixes = (".pkl",)
    who: str
    """The maps that are compared, for messages."""

    def names(self, backbone: Backbone) -> dict[str, str]:
        """timm's name -> the file's. Raises `UserError` where there is none."""
        raise NotImplementedError

    def check(self, backbone: Backbone) -> None:
        self.names(backbone)

    def write(self, backbone: Backbone, out: Path) -> dict[str, str]:
        names = self.names(backbone)
        write_detectron2(out, renamed(backbone, names))
        return names

    def usage(self, backbone: Backbone, out: Path) -> str:
        mean, std = times_255(backbone.config.mean), times_255(backbone.config.std)
        return f"MODEL.WEIGHTS {out}, INPUT.FORMAT RGB, MODEL.PIXEL_MEAN {mean}, MODEL.PIXEL_STD {std}"

    def bottom_up(self, backbone: Backbone) -> Any:
        """Module that the checkpointer fills, with random weights."""
        raise NotImplementedError

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """The module's tensors under the file's names."""
        found: dict[str, Tensor] = module.state_dict()
        return found

    def verify(self, backbone: Backbone, out: Path) -> str:
        if reason := _absent():
            again = build_backbone(backbone.config)
            load_completely(again, self.back(out), str(out))
            who = "feature maps of the file, mapped back to timm's names,"
            found = prove(backbone, out, who, again, feature_maps)
            return f"verified: {who} equal the timm model's {found}; no model of Detectron2 was run: {reason}"
        module = self.bottom_up(backbone)
        self._load(module, out)
        found = prove(backbone, out, self.who, module, lambda net, x: list(net(x).values()), all_maps)
        return f"verified: {self.who} equal the timm model's {found}"

    def back(self, out: Path) -> dict[str, Tensor]:
        """The file's tensors under timm's names."""
        raise NotImplementedError

    def _load(self, module: Any, out: Path) -> None:
        """Loads the file by Detectron2's own checkpointer, as into a detector."""
        from detectron2.checkpoint import DetectionCheckpointer

        detector = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": module})}).eval()
        DetectionCheckpointer(detector, save_to_disk=False).load(str(out))
        # The checkpointer only logs what it leaves out.
        loaded, written = self.tensors(module), read_detectron2(out)["model"]
        lost = [name for name in loaded | written if not _equal(loaded.get(name), written.get(name))]
        if lost:
            raise UserError(
                f"Detectron2 loads {out} in part: {len(lost)} of {len(loaded)} tensors are lost, e.g. {lost[0]}"
            )


class ResNetFile(Detectron2File):
    """Detectron2's own ResNet."""

    who = "Detectron2's feature maps"

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == "resnet"

    def names(self, backbone: Backbone) -> dict[str, str]:
        if backbone.config.stem != "imagenet":
            raise UserError(
                f"Detectron2's ResNets have a 7×7 stem with max pooling, {describe(backbone.config)} differs from that"
            )
        return names_by(RESNET, backbone, "detectron2")

    def usage(self, backbone: Backbone, out: Path) -> str:
        text = super().usage(backbone, out) + ", MODEL.RESNETS.STRIDE_IN_1X1 False"
        basic = not hasattr(backbone.model.layer1[0], "conv3")  # type: ignore[index]
        return text + (", MODEL.RESNETS.RES2_OUT_CHANNELS 64" if basic else "")

    def bottom_up(self, backbone: Backbone) -> Any:
        from converters.engines.detectron2_resnet import detectron2_resnet

        return detectron2_resnet(backbone.model, "BN")

    def back(self, out: Path) -> dict[str, Tensor]:
        return dict(recognise(read_detectron2(out), str(out), "online").tensors)


class WrappedFile(Detectron2File):
    """timm's names, for a backbone that wraps timm's network."""

    native = False
    who = "feature maps of timm's network inside Detectron2"

    def fits(self, backbone: Backbone) -> bool:
        return is_timms(backbone)

    def names(self, backbone: Backbone) -> dict[str, str]:
        return {name: name for name in backbone.model.state_dict()}

    def usage(self, backbone: Backbone, out: Path) -> str:
        return (
            f"{super().usage(backbone, out)}; the names are timm's, for a backbone that wraps timm's "
            f"{backbone.config.name}, such as converters.engines.detectron2_timm.TimmBackbone"
        )

    def bottom_up(self, backbone: Backbone) -> Any:
        from converters.engines.detectron2_timm import TimmBackbone

        return TimmBackbone(backbone.config)

    def tensors(self, module: Any) -> dict[str, Tensor]:
        return super().tensors(module.network)

    def back(self, out: Path) -> dict[str, Tensor]:
        return dict(read_detectron2(out)["model"])


def _absent() -> str:
    """Reason why Detectron2's model can't be run here; empty where it can."""
    detectron2_compat.install_hook()
    try:
        import detectron2.modeling  # noqa: F401
    except ImportError as error:
        return f"it can't be imported here ({error})"
    return ""


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


ADAPTERS = (ResNetFile(), WrappedFile())
