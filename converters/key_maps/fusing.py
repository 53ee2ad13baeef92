"""Changes of tensors that several libraries' files need on the way to timm's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from core.errors import UserError

_QUERY = re.compile(r"(.*\.attn\.)q\.weight")


def fuse_qkv(tensors: dict[str, Tensor]) -> str:
    """Joins queries, keys and values, `X.attn.q.*`, `.k.*` and `.v.*`, into `X.attn.qkv.*`.

    Where keys have no bias, those of the others become `X.attn.q_bias` and `X.attn.v_bias`, as in timm's BEiT and Eva.
    """
    blocks = [match[1] for name in list(tensors) if (match := _QUERY.fullmatch(name))]
    for block in blocks:
        _join(tensors, block, ("q", "k", "v"), "weight")
        if f"{block}k.bias" in tensors:
            _join(tensors, block, ("q", "k", "v"), "bias")
        else:
            for part in ("q", "v"):
                if f"{block}{part}.bias" in tensors:
                    tensors[f"{block}{part}_bias"] = tensors.pop(f"{block}{part}.bias")
    return "queries, keys and values joined" if blocks else ""


def split_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse: `X.attn.qkv.*`, of shape [3·D, …], as `X.attn.q.*`, `.k.*` and `.v.*`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block, fused, kind = name.partition(".attn.qkv.")
        if fused:
            found |= {f"{block}.attn.{part}.{kind}": x for part, x in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found


def _join(tensors: dict[str, Tensor], block: str, parts: Iterable[str], kind: str) -> None:
    names = [f"{block}{part}.{kind}" for part in parts]
    if missing := [name for name in names if name not in tensors]:
        raise UserError(f"the file lacks {missing[0]}, which the others of its block need; it is incomplete")
    try:
        tensors[f"{block}qkv.{kind}"] = torch.cat([tensors.pop(name) for name in names])
    except (RuntimeError, TypeError):
        raise UserError(f"{names[0]} and the tensors beside it have no common width; the file is damaged") from None


def split_qkv_bias(tensors: dict[str, Tensor]) -> str:
    """Splits `X.attn.qkv.bias` of DINOv3's code into `X.attn.q_bias` and `X.attn.v_bias`; keys have no bias there.

    The file's `bias_mask` says so, and its biases of keys are not numbers. Raises `UserError` where keys have a bias.
    """
    names = [name for name in tensors if name.endswith(".attn.qkv.bias")]
    for name in names:
        bias = tensors.pop(name)
        mask = tensors.pop(name + "_mask", None)
        if mask is not None:
            bias = torch.where(mask == 0, torch.zeros_like(bias), bias * mask)
        query, key, value = (part.clone() for part in bias.chunk(3))
        if bool(key.ne(0).any()):
            raise UserError(f"{name} gives keys a bias, which no network of timm with rotary embeddings has")
        tensors[name.replace("qkv.bias", "q_bias")], tensors[name.replace("qkv.bias", "v_bias")] = query, value
    return "biases of queries and values kept apart" if names else ""


def share_relative_positions(tensors: dict[str, Tensor]) -> str:
    """Copies BEiT's shared table of relative positions into every block."""
    shared = tensors.pop("rel_pos_bias.relative_position_bias_table", None)
    if shared is None:
        return ""
    blocks = {match[1] for name in tensors if (match := re.match(r"(blocks\.\d+\.)", name))}
    tensors.update({f"{block}attn.relative_position_bias_table": shared.clone() for block in blocks})
    return "the table of relative positions that all blocks share copied into each"


def batched(tensors: dict[str, Tensor], **dimensions: int) -> None:
    """Gives each named tensor leading dimensions of size 1 up to this number."""
    for name, wanted in dimensions.items():
        if name in tensors and tensors[name].ndim < wanted:
            tensors[name] = tensors[name].reshape(*(1,) * (wanted - tensors[name].ndim), *tensors[name].shape)
