"""Seeded damage: to bytes, to documents of plain values, and to dictionaries of tensors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 0.5, 2**31, 2**53 + 1, 2**63, 10**30, -(10**30), 1e308, -1e-308, float("inf"),
    float("nan"), "", "x", "1", "nan", "null", "a" * 3000, "\0", "../../x", "/etc/passwd", "é\u2028ö", "\ud800", "{}",
    "%s", "~", ".", "..", [], {}, [[]], [[[[[]]]]], {"a": {}}, {"": None}, [1, 2, 3, 4], [0.0, 0.0], ["a", "b"],
    "<script>alert(1)</script>", {"name": "resnet18"}, {"id": 1}, [None], list(range(50)),
)  # fmt: skip
"""Values that settings, annotations and results were not made for."""
_INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"PK\x03\x04",
    b"<!--",
)
_TYPES = (torch.int8, torch.bool, torch.complex64, torch.int64, torch.float16, torch.float64, torch.bfloat16)


def near(value: Any, rng: random.Random) -> Any:
    """A value like the given one, which may well be allowed in its place."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((value + 1, value - 1, value * 2, value * 1000, value // 2, -value, float(value), value / 3))
    if isinstance(value, list) and value:
        return rng.choice((value[:-1], value + value[:1], value[::-1], [near(one, rng) for one in value]))
    return rng.choice((value, None, 1, "x")) if not isinstance(value, dict) else value


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three kinds of damage."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_DAMAGE)(data, rng)
    return bytes(data)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_in_front(data: bytearray, rng: random.Random) -> None:
    """Headers are where readers trust their input."""
    if data:
        data[rng.randrange(min(len(data), 400))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    block = rng.randbytes(rng.choice((1, 4, 16, 200))) if rng.random() < 0.5 else rng.choice(_INTERESTING)
    data[start : start + len(block)] = block


def _remove(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 3, 50, 1000))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = data[start : start + rng.choice((1, 7, 100))] * rng.choice((1, 3, 20))


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice((1, 30, 500)))


_DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _truncate, _flip, _flip, _flip_in_front, _overwrite, _remove, _repeat, _append,
)  # fmt: skip


def changed(document: Any, rng: random.Random) -> Any:
    """A copy of a document of plain values with one to three entries replaced, removed, renamed or added."""
    copy = _copied(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        copy = _change_one(copy, rng)
    return copy


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(below) for key, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list | tuple) else value


def _change_one(document: Any, rng: random.Random) -> Any:
    if not isinstance(document, dict | list) or not document or rng.random() < 0.01:
        return _copied(rng.choice(NASTY))
    node = document
    while True:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.15:
            break
        node = node[key]
    way = rng.random()
    if way < 0.6:
        node[key] = _copied(rng.choice(NASTY))
    elif way < 0.75:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(("x", "", "id", f"{key}_", str(key).upper()))] = node[key] if way < 0.85 else node.pop(key)
    else:
        node.insert(key, _copied(node[key]))
    return document


def changed_tensors(state: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A state dict with tensors of other names, shapes, kinds and values; at times with other things among them."""
    copy = dict(state)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(copy))
        value = copy[name]
        tensor = value if isinstance(value, torch.Tensor) else torch.ones(3)
        way = rng.randrange(12)
        if way == 0:
            del copy[name]
        elif way == 1:
            copy[rng.choice((f"{name}x", f"module.{name}", name.replace("layer", "stage"), name[:-1] or "w"))] = (
                copy.pop(name)
            )
        elif way == 2:
            copy[f"layer{rng.choice((5, 77, 10**6, 10**30))}.0.conv1.weight"] = tensor
        elif way == 3:
            copy[name] = tensor.flatten()[: rng.randrange(4)]
        elif way == 4:
            copy[name] = tensor.transpose(0, -1).contiguous() if tensor.ndim > 1 else tensor[None]
        elif way == 5:
            copy[name] = torch.ones(()).expand(list(rng.choice((tensor.shape, (10**6, 10**6)))))
        elif way == 6:
            copy[name] = tensor.to(rng.choice(_TYPES))
        elif way == 7:
            copy[name] = tensor.double().clone().fill_(rng.choice((float("nan"), float("inf"), 1e300)))
        elif way == 8:
            copy[name] = rng.choice(NASTY)
        elif way == 9:
            copy[name] = tensor.to_sparse() if tensor.ndim else tensor
        elif way == 10:
            copy[name] = {name: tensor, "w": tensor}
        elif copy:
            other = rng.choice(list(copy))
            copy[name], copy[other] = copy[other], copy[name]
        if not copy:
            return {"w": torch.ones(2)}
    return copy
