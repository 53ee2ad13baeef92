"""Training state on disk: written and restored so that a resumed run equals an uninterrupted one bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.checkpoints import EXPORTS, export_backbone, load_training_state, save_training_state, training_states
from core.config import config_digest, from_dict, read_yaml, rename_keys, to_dict
from core.data.broken import BrokenImages
from core.distributed import Processes, gather_objects, raise_on_all_ranks
from core.errors import UserError
from core.result import git_revision
from pretrain.config import PretrainConfig
from pretrain.large import sharding
from pretrain.method import Method

CHANGEABLE = ("checkpoint.", "monitor.", "tracker", "broken_share", "optim.lr", "optim.clip", "compute.precision")
"""Settings that may differ when a run is resumed."""
_DATA_SOURCE = "data.source"
"""May differ too: images at another place are the same data as long as their digest is equal."""


@dataclass(frozen=True)
class Training:
    """A run in memory: everything that its training state on disk is made of."""

    run: Path
    """The run's folder."""
    config: PretrainConfig
    """Resolved config."""
    data: Mapping[str, Any]
    """Number and digest of the images; the digest is known on rank 0 only."""
    processes: Processes
    """This process among its peers."""
    method: Method
    """The networks and the losses."""
    optimiser: torch.optim.Optimizer
    """Optimiser of the online network."""
    scaler: torch.amp.GradScaler | None
    """Loss scaler in fp16."""
    broken: BrokenImages
    """Broken images reported so far."""
    initial: Mapping[str, str] = field(default_factory=dict)
    """Facts about the checkpoint that the networks started from."""


def save(training: Training, step: int, epoch: int) -> None:
    """Exports the backbones and writes the training state after `step` steps. Every rank calls it.

    The state comes last: a run killed in between resumes from the state before and exports the same again.
    """
    config, method = training.config, training.method
    rng = gather_objects(_rng_state(training.processes.device))
    folder = training.run / "checkpoints"
    sharded = config.compute.shard != "none"
    backbones: list[Any] = [network.backbone for network in method.networks()]
    if sharded:
        sharding.remove_left_over(folder, training.processes)
        sharding.save(sharding.folder_of(folder, step), method, training.optimiser)
        backbones = sharding.whole_backbones(method)
    if not training.processes.is_main:
        return
    state = {
        "config": to_dict(config),
        "epoch": epoch,
        "data": dict(training.data),
        "broken": list(training.broken.names),
        "online": None if sharded else method.online.state_dict(),
        "target": None if sharded or method.target is None else method.target.state_dict(),
        "losses": {name: memory for name, loss in method.losses().items() if (memory := loss.memory())},
        "optimiser": None if sharded else training.optimiser.state_dict(),
        "scaler": None if training.scaler is None else training.scaler.state_dict(),
        "rng": rng,
    }
    facts = {
        "method": config.objective.name,
        "epoch": epoch,
        "step": step,
        "seed": config.seed,
        "data": config.data.source,
        "config_sha256": config_digest(config),
        "recipe_sha256": config_digest(dataclasses.replace(config, seed=0)),
        "git_revision": git_revision(),
        **method.objective.FACTS,
        **training.initial,
    }
    for network, backbone in zip(EXPORTS, backbones, strict=False):
        export_backbone(training.run / EXPORTS[network], backbone, config.backbone, {"network": network, **facts})
    save_training_state(folder, step, state)


def restore(training: Training) -> int:
    """Loads the newest state of the run, if one exists, and returns the number of steps done.

    Settings named by `CHANGEABLE` may differ from the run so far, and so may the place of the same images; both are
    printed. Raises `UserError` where the run folder belongs to another config or other data, and where the ranks find
    different states (hosts without a shared disk). Under another number of processes the images, views and batches stay
    the same, but stochastic depth draws differ; rank r resumes the random state of rank r where one was saved.
    """
    run, processes = training.run, training.processes
    states = training_states(run / "checkpoints")
    found = gather_objects(states[-1].name if states else None)
    if len(set(found)) > 1:
        raise UserError(
            f"the ranks find different states in {run} ({found}); it must be on a disk that all hosts share"
        )
    if not states:
        _keep_exports_of_another_recipe(run, training.config)
        return 0
    older = "resume from the one before" if len(states) > 1 else "start again"
    try:
        state = load_training_state(states[-1])
        before = from_dict(PretrainConfig, rename_keys(PretrainConfig, state["config"]), str(states[-1]))
        changed = _differences(to_dict(before), to_dict(training.config))
        trained_on = {key: state["data"][key] for key in ("images", "digest")}
    except (UserError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{states[-1]} is damaged ({reason}); remove it to {older}") from None
    _refuse(run, changed)
    other_data = processes.is_main and trained_on != dict(training.data)  # only rank 0 has the digest
    raise_on_all_ranks(
        f"{run} was trained on other images ({trained_on['images']} then, {training.data['images']} now, or changed "
        f"ones); bring back the same data or choose another --out"
        if other_data
        else ""
    )
    if processes.is_main:
        for change in changed:
            print(f"from here on {change}")
    try:
        step = _load(training, state)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{states[-1]} is damaged ({str(error).splitlines()[0]}); remove it to {older}") from None
    return step


def _load(training: Training, state: Mapping[str, Any]) -> int:
    method, rng, rank = training.method, state["rng"], training.processes.rank
    if training.config.compute.shard != "none":
        sharding.load(sharding.folder_of(training.run / "checkpoints", int(state["step"])), method, training.optimiser)
    else:
        method.online.load_state_dict(state["online"])
        if method.target is not None:
            method.target.load_state_dict(state["target"])
        training.optimiser.load_state_dict(state["optimiser"])
    for name, loss in method.losses().items():
        loss.restore(state.get("losses", {}).get(name, {}))
    if training.scaler is not None and state["scaler"] is not None:
        training.scaler.load_state_dict(state["scaler"])
    if rank < len(rng):
        _set_rng_state(rng[rank], training.processes.device)
    training.broken.add(state.get("broken", []))
    return int(state["step"])


def _keep_exports_of_another_recipe(run: Path, config: PretrainConfig) -> None:
    """Refuses to overwrite the exports of another recipe in a folder whose states were removed."""
    written = run / "config.yaml"
    if written.is_file() and any((run / name).exists() for name in EXPORTS.values()):
        before = from_dict(PretrainConfig, rename_keys(PretrainConfig, read_yaml(written)), str(written))
        _refuse(run, _differences(to_dict(before), to_dict(config)))


def _refuse(run: Path, changed: list[str]) -> None:
    if refused := [change for change in changed if not change.startswith((*CHANGEABLE, f"{_DATA_SOURCE}:"))]:
        raise UserError(
            f"{run} holds a run with another config ({', '.join(refused)}); give the same values or another --out"
        )


def _rng_state(device: torch.device) -> dict[str, Any]:
    # Order and views are pure functions of seed and position; only stochastic depth draws from torch's generators.
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key: old → new` for every leaf in which two resolved configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in {**old, **new}:
            found += _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return found
    return [] if old == new else [f"{prefix.rstrip('.')}: {old} → {new}"]
