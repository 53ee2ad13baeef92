"""timm's own conversion of other projects' names for a named model, with an exact account of every tensor."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from converters.key_maps.base import MASKED, ON_TOP
from converters.key_table import KeyTable
from core.backbones import BackboneConfig, describe
from core.coverage import check_plain, compare
from core.errors import UserError, first_line

_TEXTS = r"(text|transformer|token_embedding|positional_embedding|ln_final|logit_|text_projection|visual\.(head|proj))"
# Names that timm's filters drop rightly -> why.
_DROPPED = {
    r"(.*\.)?(rope|rope_embed)\.": "fixed rotary embeddings",
    r"(.*\.)?(bias_mask|relative_position_index|relative_coords_table|attn_mask|periods|inv_freq)$": "fixed numbers",
    r"(.*\.)?(mask_token|local_cls_norm.*)$": "part of pre-training",
    rf"{_TEXTS}": "tower of texts",
    r"(.*\.)?num_batches_tracked$": "counter",
    **ON_TOP,
    **MASKED,
}


def convert(
    config: BackboneConfig, model: nn.Module, tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], KeyTable] | None:
    """Tensors of the file under the names of timm's `model`, by the `checkpoint_filter_fn` of its module, and the
    account; None where timm has no such function.

    `model` may be on the meta device. Raises `UserError` where the function fails, where it drops a tensor that may be
    part of the backbone, and where its outcome does not cover the model.
    """
    function = _filter_of(config)
    if function is None:
        return None
    check_plain(tensors, source)
    trace = _Trace(tensors)
    arguments = (dict(tensors), model)[: len(inspect.signature(function).parameters)]
    try:
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), trace:
            found = function(*arguments)
        state = {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # made for timm's own files, it may raise anything for others
        raise UserError(
            f"timm's conversion for {describe(config)} can't read {source} ({type(error).__name__}: "
            f"{first_line(error)}); is the file of another network?"
        ) from None
    own = model.state_dict()
    on_top = [name for name in state if name not in own and _reason(name, ON_TOP) is not None]
    state = {name: tensor for name, tensor in state.items() if name not in on_top}
    sources = {name: trace.sources_of(tensor) for name, tensor in state.items()}
    used = {name for names in sources.values() for name in names}
    dropped = [(name, _reason(name, _DROPPED)) for name in tensors if name not in used]
    if unexplained := [name for name, why in dropped if why is None]:
        raise UserError(
            f"timm's conversion for {describe(config)} would drop {len(unexplained)} tensors of {source}, e.g. "
            f"{unexplained[0]}; give the --arch that has them"
        )
    coverage = compare(model, state)
    if not coverage.complete:
        raise UserError(f"{source} does not fit {describe(config)}: {coverage.summary()}")
    return _copied(state), _table(tensors, state, sources, [(name, str(why)) for name, why in dropped])


def _table(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], sources: Mapping[str, frozenset[str]],
    dropped: list[tuple[str, str]],
) -> KeyTable:  # fmt: skip
    matched, renamed = [], []
    for name, origins in sources.items():
        for origin in sorted(origins):
            if state[name] is tensors[origin] and name == origin:
                matched.append(name)
            else:
                renamed.append((origin, f"{name}{_change(tensors[origin], state[name], origins)}"))
    return KeyTable(tuple(matched), tuple(renamed), tuple(dropped))


def _change(before: Tensor, after: Tensor, origins: frozenset[str]) -> str:
    """What happened to a tensor besides its name, in brackets; empty for nothing."""
    if before is after:
        return ""
    if len(origins) > 1:
        return f" (joined of {len(origins)})"
    if before.numel() == after.numel():
        return "" if before.shape == after.shape else f" (reshaped from {list(before.shape)})"
    split = after.numel() < before.numel() and before.ndim == after.ndim == 1
    return f" ({'split' if split else 'resampled'} from {list(before.shape)})"


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with memory of their own: parts of one tensor share it."""
    return {name: tensor.clone() for name, tensor in state.items()}


def _reason(name: str, patterns: Mapping[str, str]) -> str | None:
    return next((why for pattern, why in patterns.items() if re.match(pattern, name)), None)


def _filter_of(config: BackboneConfig) -> Callable[..., Any] | None:
    import timm

    module = sys.modules[timm.models.model_entrypoint(config.name).__module__]
    return getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)


class _Trace(TorchFunctionMode):
    """Names of the file's tensors that each computed tensor comes from."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): frozenset([name]) for name, tensor in tensors.items()}
        self._kept: list[Any] = list(tensors.values())  # an id is unique only while its object lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        names = frozenset(name for tensor in given for name in self._names.get(id(tensor), ()))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and names:
                self._kept.append(leaf)
                self._names[id(leaf)] = names | self._names.get(id(leaf), frozenset())
        return result

    def sources_of(self, tensor: Tensor) -> frozenset[str]:
        """Names of the file's tensors that `tensor` was computed from."""
        return self._names.get(id(tensor), frozenset())
