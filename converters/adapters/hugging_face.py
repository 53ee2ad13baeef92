"""Hugging Face folders that transformers' `AutoModel` opens: ResNets, ViTs, DINOv2 with and without registers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from converters.adapters.base import Adapter
from converters.engines.activations import is_gelu
from converters.engines.plain_resnet import other_layers
from converters.key_maps.base import KeyMap
from converters.key_maps.fusing import split_qkv
from converters.key_maps.huggingface_stages import RESNET
from converters.key_maps.huggingface_vit import DINOV2, DINOV2_SWIGLU, VIT
from converters.verification.proof import prove
from core.backbones import Backbone, build_backbone, describe, family_of
from core.checkpoints import read_safetensors
from core.coverage import load_completely
from core.errors import UserError

_WEIGHTS = "model.safetensors"
_SIDE = 224


class HuggingFaceFolder(Adapter):
    """config.json, preprocessor_config.json and model.safetensors."""

    library = "hf"
    suffixes = ()
    architecture: str
    """Kind of timm's network."""
    staged: ClassVar[bool] = False
    """True where transformers gives the map of each stage instead of tokens."""

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == self.architecture

    def check(self, backbone: Backbone) -> None:
        key_map, names = self.key_map(backbone), split_qkv(backbone.model.state_dict())
        left = [name for name in names if key_map.from_timm(name) is None]
        difference = self.difference(backbone) or (f"a tensor {left[0]}" if left else "")
        if difference:
            raise UserError(
                f"transformers has no {describe(backbone.config)}: it has {difference}, which its network of that kind "
                f"lacks; convert --to timm instead"
            )

    def difference(self, backbone: Backbone) -> str:
        """Part of the backbone that transformers' network lacks; empty if there is none."""
        raise NotImplementedError

    def key_map(self, backbone: Backbone) -> KeyMap:
        """Names of the file."""
        raise NotImplementedError

    def config(self, backbone: Backbone) -> dict[str, Any]:
        """config.json."""
        raise NotImplementedError

    def extra(self, backbone: Backbone) -> dict[str, Tensor]:
        """Tensors of the file that timm's network doesn't have."""
        return {}

    def write(self, backbone: Backbone, out: Path) -> dict[str, str]:
        key_map, state = self.key_map(backbone), self.adapted(backbone.model.state_dict())
        tensors = {str(key_map.from_timm(name)): x for name, x in split_qkv(state).items()}
        tensors = {name: x.detach().cpu().contiguous() for name, x in (tensors | self.extra(backbone)).items()}
        side = family_of(backbone.model).image_side(backbone.model) or _SIDE
        config = {"torch_dtype": "float32", "num_channels": backbone.config.in_chans, **self.config(backbone)}
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / _WEIGHTS, metadata={"format": "pt"})
        for name, values in (("config.json", config), ("preprocessor_config.json", _images(backbone, side))):
            (out / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return {name: _shown(key_map, name) for name in state}

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's tensors as the other network needs them."""
        return state

    def usage(self, backbone: Backbone, out: Path) -> str:
        return (
            f"transformers.AutoModel.from_pretrained({str(out)!r}), whose last_hidden_state is the backbone's output; "
            f"a pooler, where the class has one, is not part of it"
        )

    def verify(self, backbone: Backbone, out: Path) -> str:
        try:
            from transformers import AutoModel
            from transformers.utils import logging
        except ImportError:
            return self._verify_tensors(backbone, out)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model, report = AutoModel.from_pretrained(str(out), local_files_only=True, output_loading_info=True)
        lost = [*report["unexpected_keys"], *(x for x in report["missing_keys"] if not x.startswith("pooler."))]
        if lost:
            raise UserError(f"transformers loads {out} in part: {len(lost)} tensors are lost, e.g. {sorted(lost)[0]}")
        who = f"outputs of transformers' {type(model).__name__}"
        return f"verified: {who} equal the timm model's {prove(backbone, out, who, model, self.outputs)}"

    def outputs(self, model: Any, images: Tensor) -> list[Tensor]:
        """What is compared: the tokens [B, T, D] after the final norm; in stages, the map [B, C, h, w] of each."""
        found = model(images, output_hidden_states=self.staged)
        return list(found.hidden_states[1:]) if self.staged else [found.last_hidden_state]

    def _verify_tensors(self, backbone: Backbone, out: Path) -> str:
        """Compares the tensors, mapped back to timm's names."""
        extra, key_map = self.extra(backbone), self.key_map(backbone)
        written = {name: x for name, x in read_safetensors(out / _WEIGHTS)[0].items() if name not in extra}
        back = {str(key_map.to_timm(name)): x for name, x in written.items()}
        if key_map.adapt is not None:
            key_map.adapt(back)
        fresh = build_backbone(backbone.config)
        load_completely(fresh, back, str(out))
        for name, tensor in backbone.model.state_dict().items():
            if not tensor.equal(fresh.state_dict()[name]):
                raise UserError(f"{out} is not usable: {name} differs from the backbone's")
        return (
            "verified: the file's tensors, mapped back, are the timm model's; no output was compared, as transformers "
            "is not installed"
        )


def _shown(key_map: KeyMap, name: str) -> str:
    """Name in the file, for the report; that of the fused attention weights with its three parts."""
    if ".attn.qkv." not in name:
        return str(key_map.from_timm(name))
    return str(key_map.from_timm(name.replace(".qkv.", ".q."))).replace(".query.", ".{query,key,value}.")


def _images(backbone: Backbone, side: int) -> dict[str, Any]:
    """preprocessor_config.json: a central crop of 7 / 8 of the shorter side, bicubic, the backbone's mean and std."""
    return {
        "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": round(side * 8 / 7)},
        "resample": 3, "do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(backbone.config.mean),
        "image_std": list(backbone.config.std),
    }  # fmt: skip


class ResNetFolder(HuggingFaceFolder):
    """transformers' ResNet, of any width and depth."""

    architecture = "resnet"
    staged = True

    def key_map(self, backbone: Backbone) -> KeyMap:
        return RESNET

    def difference(self, backbone: Backbone) -> str:
        model: Any = backbone.model
        if backbone.config.stem != "imagenet":
            return "a 3×3 stem"
        block = model.layer1[0]
        if hasattr(block, "conv3") and 4 * block.conv2.out_channels != block.conv3.out_channels:
            return "bottlenecks of another width"
        if any(module.groups > 1 for module in model.modules() if isinstance(module, nn.Conv2d)):
            return "grouped convolutions"
        return other_layers(model)

    def config(self, backbone: Backbone) -> dict[str, Any]:
        model: Any = backbone.model
        bottleneck = hasattr(model.layer1[0], "conv3")
        return {
            "architectures": ["ResNetModel"], "model_type": "resnet", "embedding_size": model.conv1.out_channels,
            "hidden_sizes": family_of(model).channels(model), "depths": [len(stage) for stage in _stages(model)],
            "layer_type": "bottleneck" if bottleneck else "basic", "hidden_act": "relu",
            "downsample_in_first_stage": False, "downsample_in_bottleneck": False,
        }  # fmt: skip


def _stages(resnet: Any) -> list[Any]:
    return [getattr(resnet, f"layer{stage}") for stage in (1, 2, 3, 4)]


class VitFolder(HuggingFaceFolder):
    """transformers' ViT: a class token, no registers, no layer scale."""

    architecture = "vit"
    model_type, title = "vit", "ViTModel"

    def key_map(self, backbone: Backbone) -> KeyMap:
        return VIT

    def difference(self, backbone: Backbone) -> str:
        model: Any = backbone.model
        block, patches = model.blocks[0], model.patch_embed
        gated = _is_gated(model)
        for found, what in (
            (model.cls_token is None, "no class token"),
            (model.pos_embed is None, "no position embedding"),
            (not isinstance(model.norm, nn.LayerNorm), "no final layer norm"),
            (not isinstance(model.norm_pre, nn.Identity), "a norm before the first block"),
            (patches.patch_size[0] != patches.patch_size[1] or patches.grid_size[0] != patches.grid_size[1],
             "patches or images that are not square"),
            (not gated and not is_gelu(block.mlp.act), f"the activation {type(block.mlp.act).__name__}"),
            (block.attn.proj.bias is None or patches.proj.bias is None, "layers without a bias"),
        ):  # fmt: skip
            if found:
                return what
        return self.other_difference(model)

    def other_difference(self, model: Any) -> str:
        """Difference beyond what all kinds of ViT share."""
        if model.reg_token is not None:
            return "registers without layer scale"
        if model.no_embed_class:
            return "no position embedding for the class token"
        return ""

    def config(self, backbone: Backbone) -> dict[str, Any]:
        model: Any = backbone.model
        block = model.blocks[0]
        return {
            "architectures": [self.title], "model_type": self.model_type, "hidden_size": model.embed_dim,
            "num_hidden_layers": len(model.blocks), "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features, "hidden_act": "gelu", "layer_norm_eps": model.norm.eps,
            "image_size": model.patch_embed.img_size[0], "patch_size": model.patch_embed.patch_size[0],
            "qkv_bias": block.attn.qkv.bias is not None,
        }  # fmt: skip


class Dinov2Folder(VitFolder):
    """transformers' DINOv2: layer scale, and SwiGLU where the backbone has it."""

    model_type, title = "dinov2", "Dinov2Model"

    def key_map(self, backbone: Backbone) -> KeyMap:
        return DINOV2_SWIGLU if _is_gated(backbone.model) else DINOV2

    def other_difference(self, model: Any) -> str:
        if not hasattr(model.blocks[0].ls1, "gamma"):
            return "no layer scale"
        if _ratio(model) is None:
            return "an MLP of another width"
        registers = 0 if model.reg_token is None else model.reg_token.shape[1]
        if bool(registers) != self.registers:
            return f"{registers} registers"
        if registers and not model.no_embed_class:
            return "position embeddings for registers"
        return "" if registers else super().other_difference(model)

    registers = False
    """True for the class with registers."""

    def config(self, backbone: Backbone) -> dict[str, Any]:
        config = super().config(backbone)
        del config["intermediate_size"]
        return config | {
            "mlp_ratio": _ratio(backbone.model), "use_swiglu_ffn": _is_gated(backbone.model), "layerscale_value": 1.0,
            "apply_layernorm": True, "reshape_hidden_states": True,
        }  # fmt: skip

    def extra(self, backbone: Backbone) -> dict[str, Tensor]:
        model: Any = backbone.model
        return {"embeddings.mask_token": torch.zeros(1, model.embed_dim)}


class Dinov2RegistersFolder(Dinov2Folder):
    """The same with registers, in which the class token has a position embedding: here 0, as timm has it added."""

    model_type, title = "dinov2_with_registers", "Dinov2WithRegistersModel"
    registers = True

    def config(self, backbone: Backbone) -> dict[str, Any]:
        model: Any = backbone.model
        return super().config(backbone) | {"num_register_tokens": model.reg_token.shape[1]}

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        positions = state["pos_embed"]
        return state | {"pos_embed": torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)}


def _is_gated(model: Any) -> bool:
    """True for SwiGLU, whose first layer has twice the width of the second."""
    mlp = model.blocks[0].mlp
    return bool(mlp.fc1.out_features == 2 * mlp.fc2.in_features)


def _ratio(model: Any) -> int | None:
    """`mlp_ratio` with which transformers makes an MLP of the same width; None if there is none."""
    hidden, width = model.blocks[0].mlp.fc2.in_features, model.embed_dim
    for ratio in range(1, 17):
        made = (int(width * ratio * 2 / 3) + 7) // 8 * 8 if _is_gated(model) else width * ratio
        if made == hidden:
            return ratio
    return None


ADAPTERS = (ResNetFolder(), VitFolder(), Dinov2Folder(), Dinov2RegistersFolder())
