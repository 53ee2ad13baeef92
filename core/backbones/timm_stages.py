"""All other models of timm that return feature maps: ConvNeXt, Swin, Hiera, MaxViT, RegNet, EfficientNet, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from core.backbones import timm_models
from core.backbones.base import BackboneConfig, DenseMap, Family, LayerGroups, Pooling
from core.errors import UserError

_ELSEWHERE = {*timm_models.RESNET_MODULES, *timm_models.VIT_MODULES, *timm_models.TOKEN_MODULES, None}
_ANY_SIZE = ("swin_transformer", "swin_transformer_v2")
"""Modules whose networks take images of other sizes if they are asked to."""


class TimmStages(Family):
    """The vector that timm's own head would see; the maps of `feature_info`, finest first.

    Networks that depend on the image size (Hiera, MaxViT, …) take that of their weights alone.
    """

    title = "timm's other models with feature maps"
    noun = "a network in stages"
    vector_name = "timm's pooled vector"
    architecture = "stages"
    dense = "stages"
    parity_tolerance = 1e-5

    def builds(self, name: str) -> bool:
        return timm_models.module_of(name) not in _ELSEWHERE

    def names(self) -> list[str]:
        import timm

        return [name for name in timm.list_models() if self.builds(name)]

    def matches(self, model: nn.Module) -> bool:
        return timm_models.module_of_class(model) not in _ELSEWHERE

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        timm_models.check_plain_config(config)
        any_size = {"strict_img_size": False} if timm_models.module_of(config.name) in _ANY_SIZE else {}
        model = timm_models.create(config, drop_path, nn.Module, **any_size)
        if not hasattr(model, "forward_intermediates"):
            raise UserError(f"timm's {config.name} has no method for feature maps; choose another backbone")
        return model

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        return ("avg",)

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return int(getattr(model, "head_hidden_size", None) or model.num_features)

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        self.resolve_pooling(model, pooling)
        return model.forward_head(model.forward_features(images), pre_logits=True)

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        taps = range(len(model.feature_info)) if taps is None else taps
        found = timm_models.intermediates(model, images, taps)
        return [(int(model.feature_info[tap]["reduction"]), map_) for tap, map_ in zip(taps, found, strict=True)]

    def dense_maps(self, model: Any, images: Tensor, taps: Sequence[int], norm: bool) -> list[DenseMap]:
        """`norm`: the last stage after the final norm, which some networks (ConvNeXt) keep in their head."""
        if not norm:
            return super().dense_maps(model, images, taps, norm)
        found = timm_models.intermediates(model, images, taps, norm=True)
        last, own = len(model.feature_info) - 1, getattr(getattr(model, "head", None), "norm", None)
        if own is not None and getattr(own, "weight", None) is not None:
            found = [own(map_) if tap == last else map_ for tap, map_ in zip(taps, found, strict=True)]
        return [DenseMap(map_, None) for map_ in found]

    def channels(self, model: Any) -> list[int]:
        return [int(stage["num_chs"]) for stage in model.feature_info]

    def layer_groups(self, model: Any) -> LayerGroups:
        """timm's own groups."""
        return timm_models.layer_groups(model)

    def input_multiple(self, model: Any) -> tuple[int, int]:
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        return (int(patch[0]), int(patch[1])) if isinstance(patch, tuple | list) else (1, 1)

    def image_side(self, model: Any) -> int | None:
        settings = model.pretrained_cfg or {}
        if not settings.get("fixed_input_size"):
            return None
        if tokens := getattr(model, "tokens_spatial_shape", None):  # Hiera
            return int(tokens[0]) * int(model.patch_stride[0])
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        return int(size[0]) if isinstance(size, tuple | list) else int(settings["input_size"][-1])


FAMILY = TimmStages()
