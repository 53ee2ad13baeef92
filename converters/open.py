"""Opens everything that --ckpt accepts: our runs and files, timm's models, other projects' checkpoints, baselines."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.architecture import check_consistent, parse_architecture
from converters.detectron2_file import read_detectron2
from converters.families import STAND_INS, Network
from converters.hub_folder import is_index, read_shards, weights_in
from converters.key_table import KeyTable
from converters.recognise import recognise
from converters.resolve import ASSUMED, resolve
from converters.settings.given import NOTHING, Given, with_given
from converters.settings.side_files import read_side_files
from core.backbones import Backbone, BackboneConfig, build_backbone, check_weights, describe, fixed_backbone
from core.backbones.own_network import load
from core.checkpoints import (
    EXPORTS,
    GIVEN,
    is_exported,
    is_training_state,
    load_exported,
    read_safetensors,
    read_tensors,
    training_states,
)
from core.config import from_dict
from core.coverage import build_and_load, load_completely
from core.errors import UserError
from core.files.atomic_file import file_digest
from core.files.user_path import user_path


def open_backbone(
    ckpt: str, network: Network = "online", arch: str | None = None, seed: int = 0, given: Given = NOTHING
) -> Backbone:
    """The backbone that `ckpt` names, every tensor of it loaded.

    `ckpt` is one of

    - a run folder, one of its `backbone*.safetensors` or `checkpoints/step_*.pt`;
    - `timm:NAME` or `timm:NAME(key=value, …)`: random weights from `seed`, e.g.
      `timm:resnet18(channels=[16,32,64,128], stem=small)`; `timm:NAME.TAG`: the weights that timm released;
    - `random:CKPT`: the architecture of another checkpoint with random weights from `seed`;
    - `module:FILE.py:FUNCTION`: the network that a function of the user's returns; the file is run;
    - `pixels`: the flattened image itself;
    - a file of another project (see converters/families), whose family is detected from its keys;
    - a folder of the Hugging Face hub: timm's, transformers' or open_clip's weights and their `config.json`.

    `network`: one of two, where there are two. `arch` (as after `timm:`; `mean` and `std` may be among its arguments)
    decides what foreign weights don't show, and must not contradict them. Raises `UserError` for everything that can't
    be opened completely.
    """
    return open_with_report(ckpt, network, arch, seed, given)[0]


def open_with_report(
    ckpt: str, network: Network = "online", arch: str | None = None, seed: int = 0, given: Given = NOTHING
) -> tuple[Backbone, KeyTable]:
    """The backbone as from `open_backbone`, and the fate of every tensor in the file."""
    inner = given if given.in_chans is None else Given(pos_resize=given.pos_resize)
    backbone, table = _open(ckpt, network, arch, seed, inner)
    backbone = with_given(backbone, given)
    backbone.model.eval()
    return backbone, table or KeyTable(tuple(backbone.model.state_dict()), (), ())


def _open(ckpt: str, network: Network, arch: str | None, seed: int, given: Given) -> tuple[Backbone, KeyTable | None]:
    if (fixed := fixed_backbone(ckpt)) is not None:
        if arch is not None:
            raise UserError(f"{ckpt} is not a network, so --arch {arch} does not apply; drop it")
        return fixed, None
    if ckpt.startswith("module:"):
        return _own(ckpt, arch), None
    if ckpt.startswith("timm:"):
        backbone = _from_timm(ckpt.removeprefix("timm:"), seed)
        check_consistent(backbone.config, arch, ckpt)
        return backbone, None
    if ckpt.startswith("random:"):
        like = open_backbone(ckpt.removeprefix("random:"), network, arch, given=given)
        if like.config.name == "module":
            raise UserError(f"{ckpt}: a network of your own starts as its function says")
        check_weights(like, f"initialise randomly ({ckpt})")
        made = _random(like.config, ckpt, seed)
        if given.mean is not None:  # it is in the config already, and belongs into the source and the digest
            marked = made.origin | {"normalisation": GIVEN}
            made = dataclasses.replace(made, source=f"{made.source} with {GIVEN}", origin=marked)
        return made, None
    path = user_path(ckpt)
    if not path.exists():
        raise UserError(
            f"no checkpoint {ckpt}; --ckpt takes a run folder, a weights file, timm:NAME, random:CKPT or pixels"
        )
    if path.is_dir():
        path = _in_folder(path, network)
    if is_index(path):
        return _foreign(path, read_shards(path), network, arch, given)
    if path.suffix == ".safetensors":
        tensors, header = read_safetensors(path)
        if is_exported(header):
            return _exported(path, network, arch), None
        return _foreign(path, tensors, network, arch, given)
    if path.suffix == ".pkl":
        return _foreign(path, read_detectron2(path), network, arch, given)
    document = read_tensors(path, STAND_INS, foreign=True)
    if is_training_state(document):
        return _training_state(path, document, network, arch), None
    return _foreign(path, document, network, arch, given)


def _in_folder(folder: Path, network: Network) -> Path:
    exports = {name: folder / file for name, file in EXPORTS.items() if (folder / file).is_file()}
    if network in exports:
        return exports[network]
    if exports:
        raise UserError(f"{folder} holds no {network} network, only {' and '.join(exports)}; ask for that")
    states = training_states(folder / "checkpoints")
    if not states and (weights := weights_in(folder)) is not None:
        return weights
    if not states:
        raise UserError(
            f"{folder} is not a run folder: it holds neither {EXPORTS['online']} nor checkpoints/step_*.pt, and no "
            f"model.safetensors or pytorch_model.bin either; name the weights file"
        )
    return states[-1]


def _exported(path: Path, network: Network, arch: str | None) -> Backbone:
    backbone = load_exported(path)
    check_consistent(backbone.config, arch, str(path))
    held = backbone.origin.get("network", network)
    # `online` is the default, so only an explicit request for the target can fail here.
    if network == "target" and held != "target":
        raise UserError(f"{path} holds the {held} network, not the target; pass {EXPORTS['target']} or the run folder")
    origin = {"family": "ssl-transfer", "file_sha256": file_digest(path), **backbone.origin}
    source = f"{path} (exported {held} backbone, {describe(backbone.config)})"
    return dataclasses.replace(backbone, source=source, origin=origin)


def _training_state(path: Path, state: Mapping[str, Any], network: Network, arch: str | None) -> Backbone:
    try:
        if state["online"] is None:
            raise UserError(
                f"{path} has its weights in {path.stem}.shards; pass the run folder, which holds the exports"
            )
        if state[network] is None:
            raise UserError(f"{path} holds no {network} network, only online; ask for that")
        settings = state["config"]
        config = from_dict(BackboneConfig, settings["backbone"], str(path))
        prefix = "backbone."
        tensors = {name.removeprefix(prefix): t for name, t in state[network].items() if name.startswith(prefix)}
        facts = {"method": settings["objective"]["name"], "epoch": state["epoch"], "step": state["step"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is a damaged training state ({error}); take an older one") from None
    check_consistent(config, arch, str(path))
    model, coverage = build_and_load(config, tensors, str(path))
    origin = {"family": "ssl-transfer", "file_sha256": file_digest(path), "network": network}
    origin["coverage"] = coverage.summary()
    origin |= {key: str(value) for key, value in facts.items()}
    return Backbone(config, model, f"{path} (training state, {network} network, {describe(config)})", origin)


def _foreign(path: Path, document: Any, network: Network, arch: str | None, given: Given) -> tuple[Backbone, KeyTable]:
    side = read_side_files(path)
    named = parse_architecture(arch) if arch else side.named
    found = recognise(document, str(path), network, named)
    declared = document.get("arch")
    declared = declared if isinstance(declared, str) else None
    resolved = resolve(found.tensors, arch, str(path), found.hints, side, declared, given)
    config = resolved.config
    model, coverage = build_and_load(config, found.tensors, str(path))
    which = "its only network" if found.network == "unknown" else f"{found.network} network"
    notes = "; ".join([f"{found.family}, {which}, {describe(config)}", *resolved.notes, *found.notes])
    origin = {"family": found.family, "file_sha256": file_digest(path), "network": found.network}
    origin["coverage"] = f"{coverage.summary()}; of the file's tensors {found.table.summary()}"
    origin["normalisation"] = resolved.normalisation
    meta = document.get("meta")  # OpenMMLab's place for it
    for facts in (document, meta if isinstance(meta, Mapping) else {}):
        if isinstance(epoch := facts.get("epoch"), int):
            origin["epoch"] = str(epoch)
    return Backbone(config, model, f"{path} ({notes})", origin), found.table


def _own(ckpt: str, arch: str | None) -> Backbone:
    file, colon, function = ckpt.removeprefix("module:").rpartition(":")
    if not colon or not function.isidentifier():
        raise UserError(f"{ckpt} does not name a function; write module:FILE.py:FUNCTION")
    if arch is not None:
        raise UserError(f"{ckpt} is a network of your own, so --arch {arch} does not apply; drop it")
    model = load(user_path(file), function)
    config = BackboneConfig("module", {"file": file, "function": function})
    origin = {"family": "module", "network": "none", "normalisation": ASSUMED}
    origin["file_sha256"] = file_digest(user_path(file))
    shown = {"vector": "one vector", "tokens": f"tokens, {model.prefix} of them before the patches", "map": "one map"}
    source = f"{ckpt} ({model.features} features, {shown[model.kind]}; ImageNet's mean and std assumed)"
    return Backbone(config, model, source, origin)


def _random(config: BackboneConfig, ckpt: str, seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_backbone(config)
    origin = {"family": "random", "network": "none", "seed": str(seed)}
    return Backbone(config, model, f"{ckpt} ({describe(config)}; random initialisation, seed {seed})", origin)


def _from_timm(text: str, seed: int) -> Backbone:
    name, bracket, _ = text.partition("(")
    base, dot, tag = name.strip().partition(".")
    if not dot:
        return _random(parse_architecture(text), f"timm:{text}", seed)
    if bracket:
        raise UserError(f"timm:{text}: released weights fix the architecture; drop the arguments or the tag")
    pretrained, settings = _released(base, tag)
    config = BackboneConfig(base, mean=tuple(settings["mean"]), std=tuple(settings["std"]))
    model = build_backbone(config)
    coverage = load_completely(model, pretrained, f"timm:{text}")
    origin = {"family": "timm", "network": "none", "weights": text, "coverage": coverage.summary()}
    origin["normalisation"] = f"timm's {text}"
    return Backbone(config, model, f"timm:{text} (weights released with timm)", origin)


def _released(base: str, tag: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """State dict without the head and timm's settings of released weights, from timm's cache or the network."""
    import timm

    build_backbone(BackboneConfig(base))  # an unknown or unfit name is refused before anything is fetched
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    if tag not in tags:
        close = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:3]
        shown = f"; there are {', '.join(close)}" if close else ""
        raise UserError(f"timm has no weights {tag!r} for {base}{shown}; without a tag, timm:{base} is random")
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # our one line replaces its dozen about retries
    print(f"timm:{base}.{tag}: taken from the cache, or fetched (gives up after about a minute)", file=sys.stderr)
    try:
        model: Any = timm.create_model(f"{base}.{tag}", pretrained=True, num_classes=0)
    except Exception as error:  # whatever the network, the hub or its cache raise: no weights
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the weights timm:{base}.{tag} can't be fetched ({reason}); download the file elsewhere and pass it as "
            f"--ckpt FILE"
        ) from None
    finally:
        hub.setLevel(level)
    return model.state_dict(), model.pretrained_cfg
