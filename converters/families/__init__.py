"""Families: which project wrote a file, found from its keys, and its backbone under timm's names."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from converters.key_maps import Dialect, find_networks
from converters.key_table import KeyTable
from core.errors import UserError

Network = Literal["online", "target"]

# Wrappers of DataParallel, DDP and torch.compile stand anywhere in a name, containers of a state dict at its beginning.
_WRAPPERS = {"module", "_orig_mod"}
_LONGEST_NAME = 1000
_CONTAINERS = {"state_dict", "model", "model_state", "model_state_dict", "network"}


@dataclass(frozen=True)
class Family:
    """Where one project's files keep their networks."""

    name: str
    """Whose files these are, for messages."""
    online: tuple[str, ...]
    """Prefixes under which the trained network's backbone may stand."""
    target: tuple[str, ...] = ()
    """The same for the momentum network; empty where the method has none."""
    mark: str = ""
    """Regular expression that one more name in the file must match; without it the prefixes decide."""
    note: str = ""
    """What the weights can't show and is assumed."""
    padded_stem: bool = False
    """Its 3×3 stems have a border of 2 pixels, which the weights don't show."""


FAMILIES = (
    Family("Detectron2", ("backbone.bottom_up.", "backbone.", ""), mark=r"matching_heuristics$|(.*\.)?res2\.0\."),
    Family("MULAN's public code", ("online_model.backbone.",), ("target_model.backbone.",)),
    Family("DINO", ("student.backbone.",), ("teacher.backbone.",)),
    Family("MoCo v3", ("base_encoder.",), ("momentum_encoder.",), mark=r"base_encoder\."),
    Family(
        "OpenMMLab",
        ("backbone.", "online_net.0.", "encoder_q.0.", ""),
        ("target_net.0.", "momentum_encoder.0.", "encoder_k.0."),
        mark=r"meta$|neck\.|(target_net|online_net|momentum_encoder|encoder_[qk])\.0\.",
        note="style 'pytorch' assumed for ResNets, the weights don't show it",
    ),
    Family("MoCo v2", ("encoder_q.",), ("encoder_k.",)),
    Family(
        "lightly",
        ("backbone.", "student_backbone."),
        ("backbone_momentum.", "teacher_backbone."),
        mark=r"backbone\.\d|(projection|prediction)_head|student_|teacher_|backbone_momentum\.",
    ),
    Family(
        "solo-learn",
        ("backbone.", "encoder."),
        ("momentum_backbone.", "momentum_encoder."),
        mark=r"classifier\.|momentum_(projector|classifier|backbone)\.",
        padded_stem=True,
    ),
    Family("SimSiam", ("encoder.",), mark=r"predictor\."),
    Family("VISSL", ("classy_state_dict.base_model.model.trunk._feature_blocks.",)),
    Family("timm with averaged weights", ("",), ("state_dict_ema.", "model_ema."), mark=r"(state_dict|model)_ema\."),
)


@dataclass(frozen=True)
class Recognised:
    """The backbone of a foreign file, under timm's names."""

    tensors: dict[str, Tensor]
    table: KeyTable
    family: str
    """Whose file it is, and where in it the network stands."""
    network: str
    """`online` or `target`; `unknown` where the file holds one network and doesn't say which."""
    notes: tuple[str, ...]
    """What the weights can't show and is assumed."""
    padded_stem: bool


def known_families() -> str:
    """Names of all families, for messages."""
    return ", ".join([*(family.name for family in FAMILIES), "plain torchvision and timm state dicts"])


def recognise(document: Any, source: str, network: Network) -> Recognised:
    """Finds the backbone of `network` in a loaded document and renames its tensors to timm's.

    Raises `UserError` where no network or no known family is found, and where the asked-for one is absent.
    """
    tensors, originals = _flatten(document, source)
    _restore_res5(tensors, originals)
    networks = find_networks(tensors, source)
    if not networks:
        first = ", ".join(list(originals.values())[:4] or [str(key) for key in list(document)[:4]])
        raise UserError(
            f"{source} holds no ResNet or ViT of a known family (first keys: {first}); known are {known_families()}; "
            f"rename the tensors to timm's names and save them alone"
        )
    family = _family(networks, [*tensors, *map(str, document)])
    prefix, which = _choose(networks, family, network, source)
    dialect = networks[prefix]
    state: dict[str, Tensor] = {}
    matched, renamed, dropped = [], [], []
    others = {other: _role(family, other) for other in networks if other and other != prefix}
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        other = next((other for other in others if name.startswith(other) and len(other) > len(prefix)), None)
        if not name.startswith(prefix) or other is not None:
            role = next((role for other, role in others.items() if name.startswith(other)), None)
            dropped.append((originals[name], role or dialect.what_is(name)))
            continue
        new = dialect.to_timm(inner)
        why = dialect.why_no_part(inner) if new == inner else None
        if why is not None:
            dropped.append((originals[name], why))
            continue
        state[new] = tensor
        if originals[name] == new:
            matched.append(new)
        else:
            renamed.append((originals[name], new))
    filled = _fill_counters(state)
    where = f"below {prefix}" if prefix else "without a prefix"
    known = family.name if family else "wrapped state dict" if prefix else "plain state dict"
    notes = [family.note if family else "", dialect.note]
    if filled:
        notes.append(f"{len(filled)} absent num_batches_tracked set to 0")
    return Recognised(
        state,
        KeyTable(tuple(matched), tuple(renamed), tuple(dropped), tuple(filled)),
        f"{known}, {dialect.name} {where}",
        which,
        tuple(note for note in notes if note),
        family.padded_stem if family else False,
    )


def _flatten(document: Any, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under names without wrappers and containers, and the names that the file has for them.

    Dictionaries with other keys than text (the state of an optimiser) and lists are no networks and stay out.
    """
    if not isinstance(document, Mapping):
        raise UserError(f"{source} holds a {type(document).__name__}, not a dictionary of tensors; save a state dict")
    tensors: dict[str, Tensor] = {}
    originals: dict[str, str] = {}
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
        elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            waiting += [(f"{path}.{key}" if path else key, below) for key, below in value.items()]
    return tensors, originals


def _restore_res5(tensors: dict[str, Tensor], originals: dict[str, str]) -> None:
    """Detectron2's C4 detectors keep a ResNet's last stage in the box head: without it the backbone was shorter."""
    for name in list(tensors):
        match = re.fullmatch(r"(.*)roi_heads\.(res5\.\d+\..+)", name)
        if match and f"{match[1]}backbone.res4.0.conv1.weight" in tensors:
            own = f"{match[1]}backbone.{match[2]}"
            if own not in tensors:
                tensors[own], originals[own] = tensors.pop(name), originals.pop(name)


def _family(networks: Mapping[str, Dialect], names: list[str]) -> Family | None:
    for family in FAMILIES:
        if any(prefix in networks for prefix in family.online + family.target) and (
            not family.mark or any(re.match(family.mark, name) for name in names)
        ):
            return family
    return None


def _choose(networks: Mapping[str, Dialect], family: Family | None, network: Network, source: str) -> tuple[str, str]:
    """The prefix of the network that was asked for, and what it is."""
    if family is None:
        if len(networks) > 1:
            shown = ", ".join(repr(prefix) for prefix in networks)
            raise UserError(f"{source} holds several networks of an unknown family (below {shown}); save one alone")
        if network == "target":
            raise UserError(f"{source} holds one network and doesn't say which; leave the choice of the target out")
        return next(iter(networks)), "unknown"
    present = {
        "online": [prefix for prefix in family.online if prefix in networks],
        "target": [prefix for prefix in family.target if prefix in networks],
    }
    if not present[network]:
        other = "target" if network == "online" else "online"
        raise UserError(f"{source} ({family.name}) has no {network} network; it holds the {other} one, ask for that")
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
