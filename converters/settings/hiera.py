"""Settings of a Hiera in transformers' `config.json`, as arguments of timm's `hiera_base_224`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from core.errors import UserError

_ARGUMENTS: dict[str, tuple[str, Any]] = {
    "embed_dim": ("embed_dim", 96),
    "depths": ("stages", [2, 3, 16, 3]),
    "num_query_pool": ("q_pool", 3),
    "query_stride": ("q_stride", [2, 2]),
    "masked_unit_size": ("mask_unit_size", [8, 8]),
    "masked_unit_attention": ("mask_unit_attn", [True, True, False, False]),
    "patch_size": ("patch_kernel", [7, 7]),
    "patch_stride": ("patch_stride", [4, 4]),
    "patch_padding": ("patch_padding", [3, 3]),
    "image_size": ("img_size", [224, 224]),
    "mlp_ratio": ("mlp_ratio", 4.0),
    "embed_dim_multiplier": ("dim_mul", 2.0),
}
"""transformers' name -> timm's, and the value that both libraries have by default."""


def hiera_args(config: Mapping[str, Any], file: str) -> list[tuple[str, Any]]:
    """Arguments, in timm's names, that differ from timm's `hiera_base_224`, and always `stages`.

    `file` names the source of `config`. Raises `UserError` for numbers of heads that timm's Hiera can't have.
    """
    found = []
    for theirs, (ours, default) in _ARGUMENTS.items():
        value = config.get(theirs, default)
        if value != default or ours == "stages":
            found.append((ours, value))
    heads = config.get("num_heads", [1, 2, 4, 8])
    stages = config.get("depths", [2, 3, 16, 3])
    numbers = isinstance(heads, list) and all(isinstance(n, int) and 0 < n < 2**12 for n in heads)
    if not numbers or not isinstance(stages, list) or not 0 < len(heads) == len(stages):
        raise UserError(f"{file}: num_heads is {str(heads)[:60]}, not one number per stage; correct it")
    factor = heads[1] / heads[0] if len(heads) > 1 else 2.0
    if any(int(before * factor) != after for before, after in itertools.pairwise(heads)):
        raise UserError(
            f"{file}: timm's Hiera multiplies its heads by the same factor from stage to stage, which num_heads "
            f"{heads} doesn't; it can't be opened"
        )
    return [
        *found,
        *([("num_heads", heads[0])] if heads[0] != 1 else []),
        *([("head_mul", factor)] if factor != 2 else []),
    ]
