"""Recognition: which project wrote a file, found from its keys, and its backbone under timm's names."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.candidates import sketch
from converters.families import FAMILIES, Family, Network, known_families
from converters.inference.hints import Hints
from converters.key_maps import KeyMap, find_networks, named_networks
from converters.key_table import KeyTable
from converters.timm_filter import convert
from core.backbones import BackboneConfig
from core.coverage import check_plain, compare
from core.errors import UserError, first_line

# Wrappers of DataParallel, DDP and torch.compile stand anywhere in a name, containers of a state dict at its beginning.
_WRAPPERS = {"module", "_orig_mod"}
_LONGEST_NAME = 1000
_CONTAINERS = {"state_dict", "model", "model_state", "model_state_dict", "network"}


@dataclass(frozen=True)
class Recognised:
    """The backbone of a foreign file, under timm's names."""

    tensors: dict[str, Tensor]
    table: KeyTable
    family: str
    """Project that wrote the file, and the prefix of the network in it."""
    network: str
    """`online` or `target`; `unknown` where the file holds one network and doesn't say which."""
    notes: tuple[str, ...]
    """Assumptions that the weights do not show."""
    hints: Hints


def recognise(document: Any, source: str, network: Network, named: BackboneConfig | None = None) -> Recognised:
    """Finds the backbone of `network` in a loaded document and renames its tensors to timm's.

    `named`: timm's model, where --arch or settings beside the file name one; names that no key map knows are taken as
    timm's own for it, or converted by timm's own function. Raises `UserError` where no network or no known family is
    found, and where the asked-for one is absent.
    """
    tensors, originals, beside = _flatten(document, source)
    _restore_res5(tensors, originals)
    networks = find_networks(tensors, source)
    if not networks and named is not None:
        model = sketch(named)
        networks = named_networks(model, tensors)
        if not networks:
            return _converted(named, model, tensors, source)
    if not networks:
        first = ", ".join(list(originals.values())[:4] or [str(key) for key in list(document)[:4]])
        raise UserError(
            f"{source} holds no ResNet or ViT of a known family (first keys: {first}); known are {known_families()}; "
            f"name another network of timm's with --arch, or rename the tensors to timm's names and save them alone"
        )
    names = [*tensors, *map(str, document)]
    family = _family(networks, names)
    prefix, which = _choose(networks, family, network, source)
    key_map = networks[prefix]
    state: dict[str, Tensor] = {}
    matched, renamed, dropped = [], [], []
    others = {other: _role(family, other) for other in networks if other and other != prefix}
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        other = next((other for other in others if name.startswith(other) and len(other) > len(prefix)), None)
        if not name.startswith(prefix) or other is not None:
            role = next((role for other, role in others.items() if name.startswith(other)), None)
            dropped.append((originals[name], role or key_map.role_of(name)))
            continue
        new = key_map.to_timm(inner)
        why = key_map.reason_to_drop(inner) if new is None or new == inner else None
        if name in beside and prefix + key_map.anchor_key not in beside:
            why = "beside the state dict"
        if why is not None:
            dropped.append((originals[name], why))
            continue
        new = new or inner
        if new in state:
            raise UserError(f"{source} holds {new} twice (again as {originals[name]}); save one state dict alone")
        state[new] = tensor
        if originals[name] == new:
            matched.append(new)
        else:
            renamed.append((originals[name], new))
    adapted = ""
    if key_map.adapt is not None:
        check_plain(state, source)  # what is computed must be as large as it says
        try:
            adapted = key_map.adapt(state)
        except (RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError) as error:  # odd dimensions
            raise UserError(
                f"{source} holds tensors whose shapes {key_map.name} doesn't have ({first_line(error)}); is it damaged?"
            ) from None
    if lacking := [name for name in key_map.needs if name not in state]:
        raise UserError(f"{source} lacks {lacking[0]} (timm's name), which {key_map.name} has; is it complete?")
    if named is not None and not compare(model := sketch(named), state).complete:
        below = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        with contextlib.suppress(UserError):  # then the comparison with the model reports what doesn't fit
            return _converted(named, model, below, source)
    filled = _fill_counters(state)
    where = f"below {prefix}" if prefix else "without a prefix"
    known = family.name if family else "wrapped state dict" if prefix else "plain state dict"
    notes = [family.note if family else "", key_map.note, adapted]
    if filled:
        notes.append(f"{len(filled)} absent num_batches_tracked set to 0")
    return Recognised(
        state,
        KeyTable(tuple(matched), tuple(renamed), tuple(dropped), tuple(filled)),
        f"{known}, {key_map.name} {where}",
        which,
        tuple(note for note in notes if note),
        _hints(family, names, key_map, state),
    )


def _converted(named: BackboneConfig, model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Recognised:
    found = convert(named, model, tensors, source)
    if found is None:
        raise UserError(f"{source} does not have timm's names of {named.name}; rename its tensors and save them alone")
    state, table = found
    changed = [new for _, new in table.renamed if new.endswith(")")]
    note = f"{len(changed)} tensors joined, split, reshaped or resampled by timm" if changed else ""
    return Recognised(
        state, table, f"state dict converted by timm for {named.name}", "unknown", (note,) if note else (), Hints()
    )


def _hints(family: Family | None, names: list[str], key_map: KeyMap, state: Mapping[str, Tensor]) -> Hints:
    positions = family.positions if family is not None and family.positions is not None else key_map.positions
    if positions == "dinov2" and "reg_token" in state:
        positions = "dinov2_antialias"
    if family is None:
        return Hints("", False, {}, key_map.args, key_map.statistics, positions)
    known = not family.heads_mark or any(re.match(family.heads_mark, name) for name in names)
    heads = family.heads if known else {}
    return Hints(family.name, family.padded_stem, heads, key_map.args, key_map.statistics, positions)


def _flatten(document: Any, source: str) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """Tensors under names without wrappers and containers, the file's own names for them, and the names of those that
    stand beside a container (such as the best accuracy).

    Dictionaries with keys other than strings (the state of an optimiser) and lists are skipped.
    """
    if not isinstance(document, Mapping):
        raise UserError(f"{source} holds a {type(document).__name__}, not a dictionary of tensors; save a state dict")
    tensors: dict[str, Tensor] = {}
    originals: dict[str, str] = {}
    containers = {key for key in _CONTAINERS if isinstance(document.get(key), Mapping)}
    beside: set[str] = set()
    waiting: deque[tuple[str, Any]] = deque([("", document)])
    while waiting:
        path, value = waiting.popleft()
        if len(path) > _LONGEST_NAME:
            raise UserError(f"{source} holds a name of {len(path):,} characters ({path[:40]}…); rename its tensors")
        if isinstance(value, Tensor):
            parts = [part for part in path.split(".") if part not in _WRAPPERS]
            while len(parts) > 1 and parts[0] in _CONTAINERS:
                parts.pop(0)
            name = ".".join(parts)
            if name in tensors:
                raise UserError(f"{source} holds {name} twice ({originals[name]}, {path}); save one state dict alone")
            tensors[name], originals[name] = value, path
            if containers and path.partition(".")[0] not in containers:
                beside.add(name)
        elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            waiting += [(f"{path}.{key}" if path else key, below) for key, below in value.items()]
    return tensors, originals, beside


def _restore_res5(tensors: dict[str, Tensor], originals: dict[str, str]) -> None:
    """Detectron2's C4 detectors keep a ResNet's last stage in the box head: without it the backbone was shorter."""
    for name in list(tensors):
        match = re.fullmatch(r"(.*)roi_heads\.(res5\.\d+\..+)", name)
        if match and f"{match[1]}backbone.res4.0.conv1.weight" in tensors:
            own = f"{match[1]}backbone.{match[2]}"
            if own not in tensors:
                tensors[own], originals[own] = tensors.pop(name), originals.pop(name)


def _family(networks: Mapping[str, KeyMap], names: list[str]) -> Family | None:
    for family in FAMILIES:
        if any(prefix in networks for prefix in family.online + family.target) and (
            not family.mark or any(re.match(family.mark, name) for name in names)
        ):
            return family
    return None


def _choose(networks: Mapping[str, KeyMap], family: Family | None, network: Network, source: str) -> tuple[str, str]:
    """The prefix of the network that was asked for, and what it is."""
    if family is None:
        if len(networks) > 1:
            shown = ", ".join(repr(prefix) for prefix in networks)
            raise UserError(f"{source} holds several networks of an unknown family (below {shown}); save one alone")
        if network == "target":
            raise UserError(f"{source} holds one network and doesn't say which; drop --network target")
        return next(iter(networks)), "unknown"
    present = {
        "online": [prefix for prefix in family.online if prefix in networks],
        "target": [prefix for prefix in family.target if prefix in networks],
    }
    if not present[network]:
        other = "target" if network == "online" else "online"
        raise UserError(
            f"{source} ({family.name}) has no {network} network; it holds the {other} one: pass --network {other}"
        )
    return present[network][0], network


def _role(family: Family | None, prefix: str) -> str:
    if family is not None and prefix in family.target:
        return "target network"
    return "online network" if family is not None and prefix in family.online else "another network"


def _fill_counters(state: dict[str, Tensor]) -> list[str]:
    """Adds the batch counters that files before PyTorch 0.4.1 lack; they matter to no feature."""
    counters = [name.replace("running_mean", "num_batches_tracked") for name in state if name.endswith("running_mean")]
    absent = [name for name in counters if name not in state]
    state.update({name: torch.tensor(0) for name in absent})
    return absent
