"""converters/timm_filter.py: timm's own conversions, with an account of every tensor."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch

from converters.candidates import sketch
from converters.timm_filter import convert
from core.backbones import BackboneConfig
from core.errors import UserError

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def named(name: str, **args: Any) -> tuple[BackboneConfig, Any]:
    config = BackboneConfig(name, args)
    return config, sketch(config)


def test_a_beit_at_another_size_is_resampled_and_says_so() -> None:
    small = timm.create_model("beit_base_patch16_224", num_classes=0, img_size=32, **SMALL).state_dict()
    config, model = named("beit_base_patch16_224", **SMALL, img_size=64)
    found = convert(config, model, small | {"head.weight": torch.zeros(3, 48)}, "file")
    assert found is not None
    state, table = found
    assert set(state) == set(model.state_dict())
    assert [name for name, _ in table.dropped] == ["head.weight"]
    changed = dict(table.renamed)
    table_name = "blocks.0.attn.relative_position_bias_table"
    assert "resampled" in changed[table_name]
    assert len(table.matched) + len(changed) == len(small)


def test_clips_own_names_are_renamed_one_by_one() -> None:
    config, model = named("vit_base_patch32_clip_224", **SMALL, img_size=64)
    own = timm.create_model("vit_base_patch32_clip_224", num_classes=0, img_size=64, **SMALL).state_dict()
    renames = (
        ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."), (r"^blocks", "transformer.resblocks"), (r"norm(\d)", r"ln_\1"),
        (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"), (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"), ("cls_token", "class_embedding"),
    )  # fmt: skip
    theirs = {}
    for name, tensor in own.items():
        for ours, other in renames:
            name = re.sub(ours, other, name)
        theirs[f"visual.{name}"] = tensor.squeeze() if "embedding" in name else tensor
    found = convert(config, model, theirs | {"logit_scale": torch.zeros(()), "visual.proj": torch.zeros(48, 8)}, "file")
    assert found is not None
    assert all(torch.equal(found[0][name], tensor) for name, tensor in own.items())
    assert {name for name, _ in found[1].dropped} == {"logit_scale", "visual.proj"}


def test_dropped_biases_are_an_error_that_names_them() -> None:
    own = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0, **SMALL).state_dict()
    theirs = {"rope_embed.periods": torch.ones(4)}
    for name, tensor in own.items():
        name = name.replace("reg_token", "storage_tokens").replace("gamma_", "ls").replace("ls1", "ls1.gamma")
        theirs[name.replace("ls2", "ls2.gamma")] = tensor
    for block in range(2):
        query, value = (theirs.pop(f"blocks.{block}.attn.{part}_bias") for part in "qv")
        theirs[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query + 1, 0 * query, value])
    config, model = named("vit_small_patch16_dinov3_qkvb", **SMALL)
    found = convert(config, model, theirs, "file")
    assert found is not None
    assert torch.equal(found[0]["blocks.1.attn.q_bias"], own["blocks.1.attn.q_bias"] + 1)
    assert "split" in dict(found[1].renamed)["blocks.0.attn.qkv.bias"]
    config, model = named("vit_small_patch16_dinov3", **SMALL)
    with pytest.raises(UserError, match=r"attn\.qkv\.bias"):
        convert(config, model, theirs, "file")


def test_a_filter_that_raises_is_one_sentence() -> None:
    config, model = named("convnext_atto")
    with pytest.raises(UserError, match="KeyError"):
        convert(config, model, {"features.1.0.weight": torch.zeros(2, 2)}, "file")
    config, model = named("test_resnet")
    assert convert(config, model, {}, "file") is None
