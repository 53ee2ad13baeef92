"""Hugging Face folders of ConvNeXts of the first version."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from converters.adapters.hugging_face import HuggingFaceFolder
from converters.engines.activations import is_gelu
from converters.key_maps.base import KeyMap
from converters.key_maps.convnext import TRANSFORMERS
from core.backbones import Backbone, family_of


class ConvNextFolder(HuggingFaceFolder):
    """transformers' ConvNeXt, of any width and depth."""

    staged = True

    def fits(self, backbone: Backbone) -> bool:
        return type(backbone.model).__name__ == "ConvNeXt"

    def key_map(self, backbone: Backbone) -> KeyMap:
        return TRANSFORMERS

    def difference(self, backbone: Backbone) -> str:
        model: Any = backbone.model
        mlp = model.stages[0].blocks[0].mlp
        stem = model.stem[0]
        if not isinstance(stem, nn.Conv2d) or stem.kernel_size != stem.stride:
            return "a stem of overlapping patches"
        if not is_gelu(mlp.act):
            return f"the activation {type(mlp.act).__name__}"
        names = model.state_dict().keys()
        if "stages.0.blocks.0.mlp.grn.weight" in names:
            return "global response normalisation"
        for name, what in (("stages.0.blocks.0.gamma", "layer scale"), ("head.norm.weight", "norm behind the pooling")):
            if name not in names:
                return f"no {what}"
        return ""

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """1×1 convolutions are linear layers there."""
        return {name: x.reshape(x.shape[:2]) if ".mlp.fc" in name and x.ndim == 4 else x for name, x in state.items()}

    def config(self, backbone: Backbone) -> dict[str, Any]:
        model: Any = backbone.model
        return {
            "architectures": ["ConvNextModel"], "model_type": "convnext", "patch_size": model.stem[0].stride[0],
            "num_stages": len(model.stages), "hidden_sizes": family_of(model).channels(model),
            "depths": [len(stage.blocks) for stage in model.stages], "hidden_act": "gelu",
            "layer_norm_eps": model.head.norm.eps, "image_size": 224,
        }  # fmt: skip


ADAPTERS = (ConvNextFolder(),)
