"""Folders that transformers writes; its own classes compute the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.kinds.base import IMAGES, Kind, Made, randomised

_CODE = "transformers"
_VIT = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_DINOV2 = {key: value for key, value in _VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_CNN = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 32}
_RESNET = {"embedding_size": 64, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
_SWIN = {"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "image_size": 32, "patch_size": 4}

_HIERA = {
    "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": [32, 32],
    "masked_unit_size": [8, 8], "query_stride": [2, 2],
}  # fmt: skip


def _folder(
    model: str, config: str, settings: dict[str, Any], read: Callable[[Any], Any], part: Any = "vector", **saving: Any
) -> Callable[[Path], Made]:
    """Writes the folder of `model` built from `config`; `read` (model) -> what is compared."""

    def make(folder: Path) -> Made:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        made = randomised(getattr(transformers, model)(getattr(transformers, config)(**settings)))
        made.save_pretrained(folder, **saving)
        with torch.inference_mode():
            return Made(str(folder), read(made).clone(), part)

    return make


def _tokens(model: Any) -> Any:
    return model(pixel_values=IMAGES).last_hidden_state


def _pooled(model: Any) -> Any:
    return model(pixel_values=IMAGES).pooler_output.flatten(1)


def _kept(model: Any) -> Any:
    """Tokens of a masked autoencoder with nothing masked, in their own order."""
    return model(pixel_values=IMAGES, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state


def _row(name: str, *arguments: Any, **saving: Any) -> Kind:
    return Kind(f"transformers: {name}", _CODE, _folder(*arguments, **saving))


KINDS = (
    _row("ViT", "ViTModel", "ViTConfig", _VIT, _tokens, "tokens"),
    _row("ViT with classifier", "ViTForImageClassification", "ViTConfig", _VIT, lambda m: _tokens(m.vit), "tokens"),
    _row("DeiT, distilled", "DeiTModel", "DeiTConfig", _VIT, _tokens, "tokens"),
    _row("MAE", "ViTMAEModel", "ViTMAEConfig", _VIT | {"mask_ratio": 0.0}, _kept, "tokens"),
    _row(
        "MAE with decoder", "ViTMAEForPreTraining", "ViTMAEConfig",
        _VIT | {
            "mask_ratio": 0.0, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32,
        },
        lambda m: _kept(m.vit), "tokens",
    ),
    _row("MSN", "ViTMSNModel", "ViTMSNConfig", _VIT, _tokens, "tokens"),
    _row("I-JEPA", "IJepaModel", "IJepaConfig", _VIT, _tokens, "tokens"),
    _row("DINOv2", "Dinov2Model", "Dinov2Config", _DINOV2, _tokens, "tokens"),
    _row(
        "DINOv2 with SwiGLU", "Dinov2Model", "Dinov2Config", _DINOV2 | {"mlp_ratio": 4, "use_swiglu_ffn": True},
        _tokens, "tokens",
    ),
    _row(
        "DINOv2 with classifier", "Dinov2ForImageClassification", "Dinov2Config", _DINOV2,
        lambda m: _tokens(m.dinov2), "tokens",
    ),
    _row(
        "DINOv2 with registers", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig",
        _DINOV2 | {"num_register_tokens": 4}, _tokens, "tokens",
    ),
    _row("DINOv3 ViT", "DINOv3ViTModel", "DINOv3ViTConfig", _VIT | {"num_register_tokens": 4}, _pooled),
    _row(
        "DINOv3 ViT with gated MLPs", "DINOv3ViTModel", "DINOv3ViTConfig",
        _VIT | {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}, _tokens, "tokens",
    ),
    _row("DINOv3 ConvNeXt", "DINOv3ConvNextModel", "DINOv3ConvNextConfig", _CNN, _pooled),
    _row("CLIP, image tower", "CLIPVisionModel", "CLIPVisionConfig", _VIT, _pooled),
    _row("CLIP, image tower with GELU", "CLIPVisionModel", "CLIPVisionConfig", _VIT | {"hidden_act": "gelu"}, _pooled),
    _row(
        "CLIP, both towers", "CLIPModel", "CLIPConfig", {"vision_config": _VIT, "text_config": _TEXT},
        lambda m: _pooled(m.vision_model),
    ),
    _row("SigLIP, image tower", "SiglipVisionModel", "SiglipVisionConfig", _VIT, _pooled),
    _row(
        "SigLIP, both towers", "SiglipModel", "SiglipConfig", {"vision_config": _VIT, "text_config": _TEXT},
        lambda m: _pooled(m.vision_model),
    ),
    _row(
        "BEiT", "BeitModel", "BeitConfig", _VIT | {"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
        _pooled,
    ),
    _row(
        "BEiT, shared positions", "BeitModel", "BeitConfig",
        _VIT | {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.1}, _pooled,
    ),
    _row(
        "BEiT with classifier", "BeitForImageClassification", "BeitConfig",
        _VIT | {"use_relative_position_bias": True, "layer_scale_init_value": 0.1}, lambda m: _pooled(m.beit),
    ),
    _row("ConvNeXt", "ConvNextModel", "ConvNextConfig", _CNN, _pooled),
    _row("ConvNeXt V2", "ConvNextV2Model", "ConvNextV2Config", _CNN, _pooled),
    _row("Swin", "SwinModel", "SwinConfig", _SWIN, _pooled),
    _row("Swin with classifier", "SwinForImageClassification", "SwinConfig", _SWIN, lambda m: _pooled(m.swin)),
    _row("Swin v2", "Swinv2Model", "Swinv2Config", _SWIN, _pooled),
    _row("ResNet", "ResNetModel", "ResNetConfig", _RESNET, _pooled),
    _row("ResNet of basic blocks", "ResNetModel", "ResNetConfig", _RESNET | {
        "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32]}, _pooled),
    _row("RegNetY", "RegNetModel", "RegNetConfig", {
        "embedding_size": 32, "hidden_sizes": [48, 104, 208, 440], "depths": [1, 3, 6, 6], "groups_width": 8,
        "layer_type": "y"}, _pooled),
    _row("RegNetX", "RegNetModel", "RegNetConfig", {
        "embedding_size": 32, "hidden_sizes": [24, 56, 152, 368], "depths": [1, 1, 4, 7], "groups_width": 8,
        "layer_type": "x"}, _pooled),
    _row("Hiera", "HieraModel", "HieraConfig", _HIERA, _pooled),
    _row("Hiera with classifier", "HieraForImageClassification", "HieraConfig",
        _HIERA | {"num_heads": [2, 2, 2], "depths": [1, 2, 1], "masked_unit_attention": [True, False, False],
            "num_query_pool": 1, "masked_unit_size": [4, 4], "mlp_ratio": 2.0}, lambda m: _pooled(m.hiera)),
    _row("data2vec with classifier", "Data2VecVisionForImageClassification", "Data2VecVisionConfig",
        _VIT | {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.1},
        lambda m: _pooled(m.data2vec_vision)),
    _row("data2vec", "Data2VecVisionModel", "Data2VecVisionConfig",
        _VIT | {"use_relative_position_bias": True, "layer_scale_init_value": 0.1}, _tokens, "tokens"),
    _row("ViT in shards", "ViTModel", "ViTConfig", _VIT, _tokens, "tokens", max_shard_size="60KB"),
)  # fmt: skip
