"""torchvision's ResNets, ViTs, ConvNeXts and Swins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from converters.adapters.base import Adapter, names_by, read_written, renamed, write_tensors
from converters.engines.torchvision_model import convnext_model, resnet_model, swin_model, vit_model
from converters.key_maps import convnext, swin, torchvision
from converters.key_maps.base import KeyMap
from converters.verification.proof import prove
from core.backbones import Backbone, family_of
from core.compute.shapes import shapes_only
from core.coverage import load_completely


class TorchvisionFile(Adapter):
    """A state dict for torchvision's model without its head."""

    library = "torchvision"
    key_map: KeyMap

    def model(self, backbone: Backbone) -> Any:
        """torchvision's model of the same shape, without a head. Raises `UserError` where there is none."""
        raise NotImplementedError

    def check(self, backbone: Backbone) -> None:
        with shapes_only():
            self.model(backbone)
        names_by(self.key_map, backbone, "torchvision")

    def write(self, backbone: Backbone, out: Path) -> dict[str, str]:
        names = names_by(self.key_map, backbone, "torchvision")
        wanted = self.model(backbone).state_dict()
        tensors = {name: x.reshape(wanted[name].shape) for name, x in renamed(backbone, names).items()}
        # Tables that torchvision stores and timm computes.
        write_tensors(out, {name: x for name, x in wanted.items() if name not in tensors} | tensors)
        return names

    def usage(self, backbone: Backbone, out: Path) -> str:
        mean, std = list(backbone.config.mean), list(backbone.config.std)
        return f"load_state_dict(…, strict=False), only the head may be missing; mean {mean}, std {std}"

    def verify(self, backbone: Backbone, out: Path) -> str:
        model = self.model(backbone)
        load_completely(model, read_written(out), str(out))
        who = "torchvision's feature maps"
        return f"verified: {who} equal the timm model's {prove(backbone, out, who, model, self.maps)}"

    def parts(self, model: Any) -> list[Any]:
        """Modules whose outputs are the maps."""
        raise NotImplementedError

    def maps(self, model: Any, images: Tensor) -> list[Tensor]:
        """Outputs of the model's stages, [B, C, h, w], or of its encoder, [B, T, D]."""
        maps: list[Tensor] = []
        handles = [
            part.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
            for part in self.parts(model)
        ]
        model(images)
        for handle in handles:
            handle.remove()
        return maps


class ResNetFile(TorchvisionFile):
    """Shares timm's names."""

    key_map = torchvision.RESNET

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == "resnet"

    def model(self, backbone: Backbone) -> Any:
        return resnet_model(backbone.config)

    def parts(self, model: Any) -> list[Any]:
        return [model.layer1, model.layer2, model.layer3, model.layer4]


class VitFile(TorchvisionFile):
    """A ViT with a class token, biases and a final norm."""

    key_map = torchvision.VIT

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == "vit"

    def model(self, backbone: Backbone) -> Any:
        return vit_model(backbone.config, backbone.model)

    def parts(self, model: Any) -> list[Any]:
        return [model.encoder]


class StagesFile(TorchvisionFile):
    """Networks whose stages are every second entry of `features`."""

    kind: str
    """Name of timm's class."""

    def fits(self, backbone: Backbone) -> bool:
        return type(backbone.model).__name__ == self.kind

    def parts(self, model: Any) -> list[Any]:
        return list(model.features[1::2])


class ConvNextFile(StagesFile):
    """A ConvNeXt of the first version."""

    key_map, kind = convnext.TORCHVISION, "ConvNeXt"

    def model(self, backbone: Backbone) -> Any:
        return convnext_model(backbone.config, backbone.model)


class SwinFile(StagesFile):
    """A Swin of the first version; its maps have their channels last."""

    key_map, kind = swin.TORCHVISION, "SwinTransformer"

    def model(self, backbone: Backbone) -> Any:
        return swin_model(backbone.config, backbone.model)

    def maps(self, model: Any, images: Tensor) -> list[Tensor]:
        return [x.permute(0, 3, 1, 2) for x in super().maps(model, images)]


ADAPTERS = (ResNetFile(), VitFile(), ConvNextFile(), SwinFile())
