"""What an optimizer, as built, does with a network's parameters: rates and weight decays by kind of parameter."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from torch import nn

EMBEDDINGS = ("pos_embed", "cls_token", "reg_token")


@cache
def meta_backbone(name: str) -> Any:
    """Backbone of timm's name on the meta device: shapes without values."""
    from core.backbones import Backbone, BackboneConfig, build_backbone
    from core.compute.shapes import shapes_only

    config = BackboneConfig(name)
    with shapes_only():
        return Backbone(config, build_backbone(config), name)


def group_values(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, heads: str) -> dict[str, Any]:
    """`decay.…` and `rate.…` (relative to `lr`) of the trained parameters; a list where they are not one value.

    `heads`: regular expression of the names of parameters on top of the backbone.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    normed = {
        f"{name}.{leaf}".lstrip(".")
        for name, module in model.named_modules()
        if "Norm" in type(module).__name__
        for leaf, _ in module.named_parameters(recurse=False)
    }
    decay: dict[str, set[float]] = {}
    rate: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) not in groups:
            continue
        group = groups[id(parameter)]
        kind = (
            "embeddings" if name.endswith(EMBEDDINGS)
            else "norms" if name in normed
            else "biases" if name.endswith("bias")
            else "weights"
        )  # fmt: skip
        decay.setdefault(f"decay.{kind}", set()).add(group["weight_decay"])
        part = _part(name, heads)
        if part:
            rate.setdefault(f"rate.{part}", set()).add(round(group.get("initial_lr", group["lr"]) / lr, 9))
    values: dict[str, Any] = {key: _one(found) for key, found in (decay | rate).items()}
    values["optimizer"] = type(optimizer).__name__
    for key in ("momentum", "nesterov", "betas"):
        if key in optimizer.defaults and (key != "nesterov" or optimizer.defaults[key]):
            values[key] = optimizer.defaults[key]
    trained = [p.requires_grad for name, p in model.named_parameters() if not re.match(heads, name)]
    values["backbone.trained"] = any(trained)
    return values


def _part(name: str, heads: str) -> str:
    if re.match(heads, name):
        return "heads"
    if found := re.search(r"\b(?:blocks|layers)\.(\d+)\.", name):
        return f"block{found[1]}"
    if re.search(r"patch_embed|conv1\.weight$|stem", name) and "res" not in name.split(".")[0]:
        return "first_layer"
    return "final_norm" if re.search(r"backbone\.(ln1|norm)\.", name) else ""


def _one(found: set[float]) -> Any:
    return next(iter(found)) if len(found) == 1 else sorted(found)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings by their whole keys; tuples become lists."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + str(key)] = list(value) if isinstance(value, tuple) else value
    return values


def steps_described(steps: list[Any], prefix: str) -> dict[str, Any]:
    """Attributes of composed transforms, as `prefix.CLASS.attribute`; their own transforms' too."""
    values: dict[str, Any] = {f"{prefix}.order": [type(step).__name__.lstrip("_") for step in steps]}
    for step in steps:
        for key, value in vars(step).items():
            if isinstance(value, int | float | str | list | tuple):
                name = type(step).__name__.lstrip("_")
                values[f"{prefix}.{name}.{key}"] = list(value) if isinstance(value, tuple) else value
    return values
