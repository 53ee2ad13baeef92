"""A ViT without its class token, which then takes no part in attention."""

from __future__ import annotations

import dataclasses
from typing import Any

from core.backbones import Backbone, build_backbone, describe, family_of
from core.errors import UserError


def without_class_token(backbone: Backbone) -> Backbone:
    """The same ViT, weights and position embeddings of its patches, without the class token; unchanged if it has none.

    As in ViTDet (arXiv 2203.16527), which drops the token before the first block. The model is a new one on the CPU.
    Raises `UserError` for a network that isn't a ViT of timm.
    """
    model: Any = backbone.model
    if family_of(model).architecture != "vit":
        raise UserError(
            f"the class token can be left out of timm's plain ViTs alone, not of {describe(backbone.config)}; set "
            f"class_token to true"
        )
    if model.cls_token is None:
        return backbone
    args = backbone.config.args | {"class_token": False, "global_pool": ""}
    config = dataclasses.replace(backbone.config, args=args)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "cls_token"}
    if not model.no_embed_class:  # the token's own position embedding comes first
        state["pos_embed"] = state["pos_embed"][:, 1:]
    without = build_backbone(config)
    without.load_state_dict(state)
    return dataclasses.replace(backbone, config=config, model=without)
