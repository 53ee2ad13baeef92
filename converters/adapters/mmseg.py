"""MMSegmentation: its own ResNets and ViTs, and its TIMMBackbone for all others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from converters.adapters.base import Adapter, is_timms, renamed, times_255
from converters.engines.openmmlab import import_mmseg
from converters.mmseg_backbone import (
    dilate,
    mmseg_model,
    resnet_settings,
    vit_names,
    vit_settings,
    wrapped_names,
    wrapped_settings,
)
from converters.verification.proof import all_maps, prove, taps
from core.backbones import Backbone, build_backbone, family_of
from core.checkpoints import read_tensors
from core.coverage import load_completely
from core.errors import UserError
from core.files.atomic_file import write_atomically

# Of MMSegmentation's settings: what a recipe decides.
_LEFT_TO_THE_USER = ("init_cfg", "norm_eval", "out_indices", "strides", "dilations", "drop_path_rate")


class MmsegFile(Adapter):
    """A `.pth` for `init_cfg=dict(type='Pretrained', …)`."""

    library = "mmseg"
    suffixes = (".pth",)
    left_to_the_user: tuple[str, ...] = _LEFT_TO_THE_USER

    def settings(self, backbone: Backbone) -> dict[str, Any]:
        """The `backbone` of a config. Raises `UserError`."""
        raise NotImplementedError

    def names(self, backbone: Backbone) -> dict[str, str]:
        """timm's name -> the file's. Raises `UserError`."""
        raise NotImplementedError

    def takes(self, backbone: Backbone) -> bool:
        """True if the class computes what timm's model does."""
        try:
            return self.fits(backbone) and bool(self.names(backbone))
        except UserError:
            return False

    def check(self, backbone: Backbone) -> None:
        self.names(backbone)

    def write(self, backbone: Backbone, out: Path) -> dict[str, str]:
        names = self.names(backbone)
        # OpenMMLab's loaders take both this and a bare state dict; this one says whose it is.
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in renamed(backbone, names).items()}
        document = {"meta": {"author": "ssl-transfer"}, "state_dict": plain}
        write_atomically(out, lambda partial: torch.save(document, partial))
        return names

    def usage(self, backbone: Backbone, out: Path) -> str:
        settings = self.settings(backbone)
        named = ", ".join(f"{key}={value!r}" for key, value in settings.items() if key not in self.left_to_the_user)
        mean, std = times_255(backbone.config.mean), times_255(backbone.config.std)
        return (
            f"backbone=dict({named}, init_cfg=dict(type='Pretrained', checkpoint={str(out)!r})), "
            f"data_preprocessor with mean={mean}, std={std}, bgr_to_rgb=True"
        )

    def verify(self, backbone: Backbone, out: Path) -> str:
        try:
            import_mmseg()
        except UserError as error:
            self._compare_tensors(backbone, out)
            return f"verified: the file's tensors, mapped back, are the timm model's; no map was compared, as {error}"
        compared, found = self.proof(backbone, out)
        return f"verified: MMSegmentation's feature maps equal timm's at all {compared} {found}"

    def proof(self, backbone: Backbone, out: Path) -> tuple[str, str]:
        """Description of the compared maps, and the largest difference."""
        settings = self.settings(backbone)
        return f"{len(settings['out_indices'])} taps", self.compare(backbone, out, settings, taps)

    def compare(self, backbone: Backbone, out: Path, settings: dict[str, Any], our_maps: Any, ours: Any = None) -> str:
        """Largest difference of the network with these settings."""
        theirs = mmseg_model(settings)
        load_completely(theirs, read_tensors(out)["state_dict"], str(out))
        who = f"feature maps of MMSegmentation's {settings['type']}"
        return prove(backbone, out, who, theirs, lambda net, images: list(net(images)), our_maps, ours)

    def _compare_tensors(self, backbone: Backbone, out: Path) -> None:
        """Raises `UserError` where a tensor of the file isn't the backbone's."""
        written = read_tensors(out)["state_dict"]
        for name, tensor in renamed(backbone, self.names(backbone)).items():
            if name not in written or not written[name].equal(tensor):
                raise UserError(f"{out} is not usable: {name} differs from the backbone's")


class ResNetFile(MmsegFile):
    """MMSegmentation's ResNet, which may be dilated."""

    left_to_the_user = (*_LEFT_TO_THE_USER, "norm_cfg")

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == "resnet"

    def settings(self, backbone: Backbone) -> dict[str, Any]:
        return resnet_settings(backbone.config)

    def names(self, backbone: Backbone) -> dict[str, str]:
        self.settings(backbone)
        return {name: name for name in backbone.model.state_dict()}

    def proof(self, backbone: Backbone, out: Path) -> tuple[str, str]:
        compared, found = super().proof(backbone, out)
        settings = self.settings(backbone)
        if settings["depth"] < 50:
            return compared, found
        config = dataclasses.replace(backbone.config, args=backbone.config.args | {"output_stride": 8})
        dilated = build_backbone(config)
        load_completely(dilated, backbone.model.state_dict(), str(out))
        self.compare(backbone, out, dilate(settings), taps, dilated)
        return f"{compared}, plain and dilated (output stride 8)", found


class VitFile(MmsegFile):
    """MMSegmentation's ViT."""

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == "vit"

    def settings(self, backbone: Backbone) -> dict[str, Any]:
        return vit_settings(backbone.config, backbone.model)

    def names(self, backbone: Backbone) -> dict[str, str]:
        return vit_names(backbone.config, backbone.model)


class WrappedFile(MmsegFile):
    """timm's network inside MMSegmentation's TIMMBackbone, which gives maps and nothing behind them."""

    native = False
    left_out = "behind the feature maps that TIMMBackbone gives"
    left_to_the_user = ("init_cfg", "out_indices")

    def fits(self, backbone: Backbone) -> bool:
        return is_timms(backbone)

    def settings(self, backbone: Backbone) -> dict[str, Any]:
        return wrapped_settings(backbone.config, backbone.model)

    def names(self, backbone: Backbone) -> dict[str, str]:
        return wrapped_names(backbone.config, backbone.model)

    def proof(self, backbone: Backbone, out: Path) -> tuple[str, str]:
        settings = self.settings(backbone)
        return f"{len(settings['out_indices'])} maps", self.compare(backbone, out, settings, all_maps)


ADAPTERS = (ResNetFile(), VitFile(), WrappedFile())
