"""Folders of the Hugging Face hub: shards, settings that contradict the weights, and what JSON files decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from converters.open import open_backbone
from core.backbones import BackboneConfig
from core.errors import UserError
from core.features import EvalTransformConfig, FeatureConfig, feature_size

WIDTH, DEPTH, PATCH, SIDE = 24, 2, 8, 32
SETTINGS = {
    "model_type": "clip_vision_model", "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "patch_size": PATCH,
    "image_size": SIDE, "num_attention_heads": 3, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
}  # fmt: skip


def clip_tensors() -> dict[str, torch.Tensor]:
    """transformers' CLIPVisionModel, with random numbers."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2 + 1, WIDTH),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for layer in range(DEPTH):
        start = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {
                f"{start}self_attn.{part}.weight": (WIDTH, WIDTH),
                f"{start}self_attn.{part}.bias": (WIDTH,),
            }
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{start}{norm}.weight": (WIDTH,), f"{start}{norm}.bias": (WIDTH,)}
        shapes |= {f"{start}mlp.fc1.weight": (4 * WIDTH, WIDTH), f"{start}mlp.fc1.bias": (4 * WIDTH,)}
        shapes |= {f"{start}mlp.fc2.weight": (WIDTH, 4 * WIDTH), f"{start}mlp.fc2.bias": (WIDTH,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def folder(root: Path, **changes: Any) -> Path:
    save_file(clip_tensors(), root / "model.safetensors")
    (root / "config.json").write_text(json.dumps(SETTINGS | changes), encoding="utf-8")
    return root


def test_settings_decide_what_the_weights_do_not_show(tmp_path: Path) -> None:
    backbone = open_backbone(str(folder(tmp_path)))
    model: Any = backbone.model
    assert backbone.config.args | {"num_heads": 3, "norm_eps": 1e-5, "act_layer": "quick_gelu"} == backbone.config.args
    assert backbone.config.mean[0] == pytest.approx(0.48145466)
    assert model.blocks[0].norm1.eps == model.norm_pre.eps == 1e-5
    queries = torch.cat([clip_tensors()[f"encoder.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(model.blocks[1].attn.qkv.weight, queries)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"hidden_act": "gelu"}, ""),
        ({"layer_norm_eps": 1e-3}, ""),
        ({"num_attention_heads": 2}, ""),
        ({"num_attention_heads": 7}, "config.json"),
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"hidden_size": 32}, "hidden_size"),
        ({"patch_size": 16}, "patch_size"),
        ({"hidden_act": "mish"}, "hidden_act"),
    ],
)
def test_mutated_settings_change_the_features_or_are_refused(tmp_path: Path, changes: Any, key: str) -> None:
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    right = open_backbone(str(folder(tmp_path))).model(images)
    folder(tmp_path, **changes)
    if key:
        with pytest.raises(UserError, match=key):
            open_backbone(str(tmp_path))
        return
    assert not torch.allclose(open_backbone(str(tmp_path)).model(images), right, atol=1e-5)


def test_without_settings_a_clip_tower_has_two_readings(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        open_backbone(str(tmp_path))
    with pytest.raises(UserError, match="heads"):  # width 24 is no multiple of 64
        open_backbone(str(tmp_path / "model.safetensors"))


def test_shards(tmp_path: Path) -> None:
    whole = open_backbone(str(folder(tmp_path))).model.state_dict()
    tensors = clip_tensors()
    (tmp_path / "model.safetensors").unlink()
    halves = {"a.safetensors": list(tensors)[:10], "b.safetensors": list(tensors)[10:]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    found = open_backbone(str(tmp_path)).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors"):
        open_backbone(str(tmp_path))
    for name in ("", "../b.safetensors", "below/b.safetensors"):
        index["weight_map"] = dict.fromkeys(tensors, name)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(UserError, match="shard"):
            open_backbone(str(tmp_path))


@pytest.mark.parametrize("name", ["embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"])
@pytest.mark.parametrize("shape", [(), (3,), (24, 24, 1)])
def test_odd_shapes_are_one_sentence(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    folder(tmp_path)
    save_file(clip_tensors() | {name: torch.ones(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=str(tmp_path)):
        open_backbone(str(tmp_path))


@pytest.mark.parametrize("name", ["embeddings.position_embedding.weight", "embeddings.class_embedding"])
def test_a_missing_embedding_is_not_taken_for_another_network(tmp_path: Path, name: str) -> None:
    folder(tmp_path)
    save_file({key: tensor for key, tensor in clip_tensors().items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"pos_embed|cls_token"):
        open_backbone(str(tmp_path))


def test_arguments_of_training_beside_a_file_shape_nothing(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=7), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = {"num_classes": 7, "drop_path_rate": 0.1, "drop_rate": 0.2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_backbone(str(tmp_path)).config == BackboneConfig("test_resnet", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_hiera_asks_for_its_name(tmp_path: Path) -> None:
    small = {"embed_dim": 24, "num_heads": 1, "stages": (1, 1, 1, 1)}
    model = timm.create_model("hiera_tiny_224", **small)
    torch.save(model.state_dict(), tmp_path / "hiera.pth")
    with pytest.raises(UserError, match=r"Hiera.*--arch"):
        open_backbone(str(tmp_path / "hiera.pth"))
    arch = "hiera_tiny_224(embed_dim=24, num_heads=1, stages=[1,1,1,1])"
    found = open_backbone(str(tmp_path / "hiera.pth"), arch=arch)
    assert torch.equal(found.model.state_dict()["pos_embed"], model.state_dict()["pos_embed"])
    config = FeatureConfig(transform=EvalTransformConfig(resize=64, crop=64))
    with pytest.raises(UserError, match="crop to 224"):
        feature_size(found.model, config, torch.device("cpu"))


def test_relative_positions_ask_for_a_name(tmp_path: Path) -> None:
    small = {"embed_dim": 24, "depth": 1, "num_heads": 1, "img_size": 64, "global_attn_indexes": [0], "neck_chans": 8}
    model = timm.create_model("samvit_base_patch16", **small)
    torch.save(model.state_dict(), tmp_path / "sam.pth")
    with pytest.raises(UserError, match=r"rel_pos_h.*--arch"):
        open_backbone(str(tmp_path / "sam.pth"))
    words = ", ".join(f"{key}={value}" for key, value in small.items())
    found = open_backbone(str(tmp_path / "sam.pth"), arch=f"samvit_base_patch16({words})")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            found.model.forward_features(images), model.eval().forward_features(images), rtol=0, atol=0
        )
