"""Training state: what a run must remember to go on, bit for bit, as if it had never stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.checkpoints import EXPORTS, export_backbone, load_training_state, save_training_state, training_states
from core.config import config_digest, load_config, to_dict
from core.data.broken import BrokenImages
from core.distributed import Processes, gather_objects, raise_on_all_ranks
from core.errors import UserError
from core.result import git_revision
from pretrain.config import PretrainConfig
from pretrain.method import Method

CHANGEABLE = ("checkpoint.", "monitor.", "tracker", "broken_share", "optim.lr", "optim.clip", "compute.precision")
"""Settings that a run may go on with changed: they are what helps where it stopped."""


def save(
    run: Path,
    config: PretrainConfig,
    data: Mapping[str, Any],
    processes: Processes,
    method: Method,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    broken: BrokenImages,
    step: int,
    epoch: int,
) -> None:
    """Exports the backbones and writes the training state after `step` steps. Every rank calls it.

    The state comes last: a run killed in between goes on from the state before and exports the same again.
    """
    rng = gather_objects(_rng_state(processes.device))
    if not processes.is_main:
        return
    state = {
        "config": to_dict(config),
        "epoch": epoch,
        "data": dict(data),
        "broken": list(broken.names),
        "online": method.online.state_dict(),
        "target": None if method.target is None else method.target.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
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
    }
    networks = {"online": method.online.backbone}
    if method.target is not None:
        networks["target"] = method.target.backbone
    for network, backbone in networks.items():
        export_backbone(run / EXPORTS[network], backbone, config.backbone, {"network": network, **facts})
    save_training_state(run / "checkpoints", step, state)


def restore(
    run: Path,
    config: PretrainConfig,
    data: Mapping[str, Any],
    processes: Processes,
    method: Method,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    broken: BrokenImages,
) -> int:
    """Loads the newest state of the run, if there is one, and gives the number of steps done.

    `data`: number and digest of the images. What `CHANGEABLE` names may differ from the run so far, and is said.
    Raises `UserError` where the run folder belongs to another config or other data, and where the ranks don't find
    the same state (hosts without a shared disk). Under another number of processes the
    images, views and batches stay the same, but stochastic depth draws differ; rank r goes on with the random
    state of rank r where there was one.
    """
    states = training_states(run / "checkpoints")
    found = gather_objects(states[-1].name if states else None)
    if len(set(found)) > 1:
        raise UserError(
            f"the ranks find different states in {run} ({found}); it must be on a disk that all hosts share"
        )
    if not states:
        _keep_exports_of_another_recipe(run, config)
        return 0
    older = "go on from the one before" if len(states) > 1 else "start again"
    try:
        state = load_training_state(states[-1])
        changed = _differences(state["config"], to_dict(config))
        trained_on = {key: state["data"][key] for key in ("images", "digest")}
    except (UserError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{states[-1]} is damaged ({reason}); remove it to {older}") from None
    _refuse(run, changed)
    others = processes.is_main and trained_on != dict(data)  # only rank 0 has the digest
    raise_on_all_ranks(
        f"{run} was trained on other images ({trained_on['images']} then, {data['images']} now, or changed ones); "
        f"bring back the same data or choose another --out"
        if others
        else ""
    )
    if processes.is_main:
        for change in changed:
            print(f"from here on {change}")
    try:
        method.online.load_state_dict(state["online"])
        if method.target is not None:
            method.target.load_state_dict(state["target"])
        optimiser.load_state_dict(state["optimiser"])
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        rng = state["rng"]
        if processes.rank < len(rng):
            _set_rng_state(rng[processes.rank], processes.device)
        step, named = int(state["step"]), state.get("broken", [])
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{states[-1]} is damaged ({str(error).splitlines()[0]}); remove it to {older}") from None
    broken.add(named)
    return step


def _keep_exports_of_another_recipe(run: Path, config: PretrainConfig) -> None:
    """A folder whose states were removed still holds its networks: only the same recipe may make them again."""
    written = run / "config.yaml"
    if written.is_file() and any((run / name).exists() for name in EXPORTS.values()):
        _refuse(run, _differences(to_dict(load_config(PretrainConfig, written)), to_dict(config)))


def _refuse(run: Path, changed: list[str]) -> None:
    if refused := [change for change in changed if not change.startswith(CHANGEABLE)]:
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
