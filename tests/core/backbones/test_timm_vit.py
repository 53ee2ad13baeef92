"""core/backbones/timm_vit.py: vectors, tokens and maps are what timm's blocks compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.backbones import BackboneConfig, build_backbone, family_of, feature_width, pooled_features
from core.errors import UserError

SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 3}
IMAGES = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))  # not the size of the weights


def vit(**args: Any) -> Any:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig("vit_tiny_patch16_224", SMALL | args)).eval()


def block_outputs(model: Any) -> list[Tensor]:
    outputs: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for block in model.blocks]
    model.forward_features(IMAGES)
    for handle in handles:
        handle.remove()
    return outputs


def test_pooling_takes_class_token_or_mean_patch() -> None:
    model = vit()
    tokens = model.forward_features(IMAGES)
    assert tokens.shape == (2, 1 + 24, 48)
    torch.testing.assert_close(pooled_features(model, IMAGES), tokens[:, 0])
    torch.testing.assert_close(pooled_features(model, IMAGES, "patches"), tokens[:, 1:].mean(1))
    both = pooled_features(model, IMAGES, "cls+patches")
    assert both.shape == (2, feature_width(model, "cls+patches")) == (2, 96)
    torch.testing.assert_close(both, torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))


def test_without_class_token_patches_are_the_default() -> None:
    model = vit(class_token=False, global_pool="avg", fc_norm=False)
    torch.testing.assert_close(pooled_features(model, IMAGES), model.forward_features(IMAGES).mean(1))
    with pytest.raises(UserError, match=r"pooling cls\b.*\bpatches"):
        pooled_features(model, IMAGES, "cls")


@pytest.mark.parametrize("class_token", [False, True])
def test_a_norm_after_pooling_is_applied_as_timms_head_does(class_token: bool) -> None:
    """A fine-tuned MAE's feature is its mean patch token through fc_norm."""
    model = vit(class_token=class_token, global_pool="avg")
    torch.nn.init.uniform_(model.fc_norm.weight)
    torch.nn.init.uniform_(model.fc_norm.bias)
    expected = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(pooled_features(model, IMAGES), expected)
    torch.testing.assert_close(family_of(model).head_vector(model, IMAGES, 2 * class_token, True)[:, -48:], expected)


@pytest.mark.parametrize("registers", [0, 4])
def test_tokens_are_split_into_prefix_and_grid(registers: int) -> None:
    model = vit(reg_tokens=registers)
    tokens, expected = family_of(model).tokens(model, IMAGES), model.forward_features(IMAGES)
    assert tokens.grid == (6, 4)
    assert tokens.prefix.shape == (2, 1 + registers, 48)
    assert torch.equal(torch.cat([tokens.prefix, tokens.patches], 1), expected)


def test_maps_are_the_blocks_outputs_before_the_norm() -> None:
    model = vit(reg_tokens=2)
    family, outputs = family_of(model), block_outputs(model)
    maps = family.maps(model, IMAGES, [2, 0, 2])
    for (stride, x), block in zip(maps, (2, 0, 2), strict=True):
        assert stride == 16
        assert torch.equal(x, outputs[block][:, 3:].transpose(1, 2).reshape(2, 48, 6, 4))
    assert [x.shape[1] for _, x in family.maps(model, IMAGES)] == family.channels(model) == [48] * 3


def test_heads_see_normalised_class_tokens_of_the_last_blocks() -> None:
    model = vit()
    normalised = [model.norm(output) for output in block_outputs(model)[-2:]]
    expected = torch.cat([normalised[0][:, 0], normalised[1][:, 0], normalised[1][:, 1:].mean(1)], 1)
    torch.testing.assert_close(family_of(model).head_vector(model, IMAGES, 2, True), expected)
    assert family_of(model).blocks(model) == 3


def test_layers_follow_the_blocks() -> None:
    model = vit(reg_tokens=1)
    groups = family_of(model).layer_groups(model)
    assert groups.top == 4
    assert groups.layers.keys() == dict(model.named_parameters()).keys()
    by_layer = {layer: {name.split(".")[0] for name, of in groups.layers.items() if of == layer} for layer in range(5)}
    assert by_layer[0] == {"cls_token", "reg_token", "pos_embed", "patch_embed"}
    assert by_layer[1] == by_layer[2] == by_layer[3] == {"blocks"}
    assert by_layer[4] == {"norm"}
    assert groups.layers["blocks.1.attn.qkv.weight"] == 2
    assert groups.undecayed == {"cls_token", "reg_token", "pos_embed"}


def test_sizes_and_stems() -> None:
    model = vit(patch_size=8, img_size=32)
    assert family_of(model).input_multiple(model) == (8, 8)
    assert family_of(model).image_side(model) == 32
    with pytest.raises(UserError, match=r"backbone\.stem"):
        build_backbone(BackboneConfig("vit_tiny_patch16_224", SMALL, "small"))
