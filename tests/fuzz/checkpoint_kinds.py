"""Damaged checkpoints, and what a killed probe left behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from converters.detectron2_file import write_detectron2
from converters.key_maps.detectron2 import RESNET
from converters.open import open_backbone
from core.backbones import Backbone, BackboneConfig, build_backbone
from core.checkpoints import TRAINING_FORMAT, export_backbone, save_training_state, tensors_digest
from core.config import to_dict
from core.data.broken import BrokenImages
from core.distributed import Processes
from evaluate.common.resumable import ProbeState
from evaluate.probes.accuracy import Accuracies
from evaluate.probes.features.standardise import BatchStandardiser
from evaluate.probes.linear.head_grid import HeadGrid, HeadOptimConfig
from evaluate.probes.linear.training import History, _restore, _state
from tests.fuzz.mutations import changed, changed_tensors, damaged
from tests.fuzz.trial import Trial

_TINY = BackboneConfig("resnet18", {"channels": [4, 4, 8, 8]}, "small", mean=(0.1, 0.2, 0.3))
_ARCH = "resnet18(channels=[4, 4, 8, 8], stem=small)"
_ALONE = Processes(0, 1, torch.device("cpu"))


def _originals(folder: Path) -> tuple[dict[str, Path], dict[str, torch.Tensor]]:
    """One network in every kind of file."""
    torch.manual_seed(0)
    state = {name: tensor.clone() for name, tensor in build_backbone(_TINY).state_dict().items()}
    files = {
        name: folder / name
        for name in ("export.safetensors", "plain.pth", "legacy.pth", "detectron2.pkl", "bare.safetensors")
    }
    from safetensors.torch import save_file

    export_backbone(files["export.safetensors"], state, _TINY, {"method": "byol", "epoch": 1, "network": "online"})
    torch.save({"state_dict": state, "epoch": 3, "args": {"lr": 0.1}}, files["plain.pth"])
    torch.save(state, files["legacy.pth"], _use_new_zipfile_serialization=False)
    write_detectron2(files["detectron2.pkl"], {str(RESNET.from_timm(name)): tensor for name, tensor in state.items()})
    save_file(state, files["bare.safetensors"])
    training = {
        "config": {"backbone": to_dict(_TINY), "objective": {"name": "byol"}}, "epoch": 1, "data": {"images": 4},
        "online": {f"backbone.{name}": tensor for name, tensor in state.items()}, "target": None,
        "optimiser": {"state": {0: {"momentum_buffer": torch.ones(3)}}}, "rng": [{"cpu": torch.get_rng_state()}],
    }  # fmt: skip
    files["training"] = save_training_state(folder / "checkpoints", 1, training)
    return files, state


_WITH_DIGEST = ("export.safetensors", "plain.pth", "training")
"""Kinds whose tensors are checked by a digest or checksum; the others have none."""


def _open(path: Path) -> Backbone:
    ours = path.name in ("a.export.safetensors",) or "step_" in path.name
    return open_backbone(str(path), arch=None if ours else _ARCH)


def checkpoint_bytes(folder: Path) -> Trial:
    """Checkpoints of every kind with damaged bytes: opened to exactly the tensors that were saved, or refused."""
    files, state = _originals(folder)
    intended = tensors_digest(state)
    contents = {name: path.read_bytes() for name, path in files.items()}
    shapes = {name: tensor.shape for name, tensor in state.items()}

    def trial(rng: random.Random) -> None:
        name = rng.choice(list(contents))
        path = folder / (f"a.{name}" if name != "training" else "step_000000009.pt")
        path.write_bytes(damaged(contents[name], rng))
        backbone = _open(path)
        opened = backbone.model.state_dict()
        assert {key: tensor.shape for key, tensor in opened.items()} == shapes
        if name in _WITH_DIGEST:
            assert tensors_digest(opened) == intended, f"{name}: other tensors than were saved"
        if name == "export.safetensors":
            assert backbone.config == _TINY

    return trial


def checkpoint_contents(folder: Path) -> Trial:
    """Checkpoints, soundly written, whose tensors have other names, shapes, kinds or values."""
    _, state = _originals(folder)
    ways = (_as_training_state, _as_export, _as_state_dict, _as_foreign)

    def trial(rng: random.Random) -> None:
        wrong: dict[str, Any] = changed_tensors(state, rng)
        opened = _open(rng.choice(ways)(folder, wrong, rng)).model.state_dict()
        for name, tensor in opened.items():
            given = wrong.get(name, wrong.get(f"module.{name}"))
            if not isinstance(given, torch.Tensor) and name.endswith(
                "num_batches_tracked"
            ):  # old files lack it; it matters to no feature
                assert tensor == 0
                continue
            assert isinstance(given, torch.Tensor), f"{name} came from nowhere"
            assert torch.equal(tensor, given.to(tensor.dtype)), f"{name} is not what was given"
            assert bool(torch.isfinite(tensor).all())

    return trial


def _as_training_state(folder: Path, wrong: dict[str, Any], rng: random.Random) -> Path:
    document: Any = {"config": {"backbone": to_dict(_TINY), "objective": {"name": "byol"}}, "epoch": 1, "target": None}
    if rng.random() < 0.4 and not isinstance(document := changed(document, rng), dict):
        document = {}
    online = {f"backbone.{name}": tensor for name, tensor in wrong.items()}
    torch.save({"format": TRAINING_FORMAT, "step": 1, "online": online, **document}, folder / "step_000000008.pt")
    return folder / "step_000000008.pt"


def _as_export(folder: Path, wrong: dict[str, Any], rng: random.Random) -> Path:
    """Only dense tensors can be written so."""
    for name in list(wrong):
        tensor = wrong[name]
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.numel() > 10**6:
            wrong[name] = torch.zeros(2)
    tensors = {name: tensor.contiguous().clone() for name, tensor in wrong.items()}
    printed: Any = to_dict(_TINY) if rng.random() < 0.5 else changed(to_dict(_TINY), rng)
    header = {"format": "ssl-transfer/backbone/1", "backbone": json.dumps(printed), "sha256": tensors_digest(tensors)}
    save_file(tensors, folder / "a.export.safetensors", metadata=header)
    return folder / "a.export.safetensors"


def _as_state_dict(folder: Path, wrong: dict[str, Any], rng: random.Random) -> Path:
    torch.save(wrong, folder / "a.pth")
    return folder / "a.pth"


def _as_foreign(folder: Path, wrong: dict[str, Any], rng: random.Random) -> Path:
    beside = changed({"meta": {"epoch": 1, "hooks": []}, "epoch": 3, "args": ["x"]}, rng)
    torch.save({**(beside if isinstance(beside, dict) else {}), "state_dict": wrong}, folder / "a.pth")
    return folder / "a.pth"


def unfinished_probes(folder: Path) -> Trial:
    """What a killed probe left behind."""

    def made() -> tuple[HeadGrid, BatchStandardiser]:
        grid = HeadGrid(((0, 3), (3, 5)), (0.1, 0.2), 4, HeadOptimConfig(), 0, _ALONE.device)
        return grid, BatchStandardiser(5, _ALONE.device)

    def blank() -> BrokenImages:
        return BrokenImages(10, 1.0)

    history = History([Accuracies((1.0,) * 4, (2.0,) * 4, (3.0,) * 4)])
    state = _state(*made(), history, blank())
    document = {"identity": "me", "seconds": 1.0, **state}
    torch.save(document, folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()

    def trial(rng: random.Random) -> None:
        if rng.random() < 0.4:
            (folder / "unfinished.pt").write_bytes(damaged(whole, rng))
        else:
            torch.save(changed(document, rng), folder / "unfinished.pt")
        unfinished = ProbeState(folder / "unfinished.pt", "me", _ALONE)
        found = unfinished.load()
        assert found is not None
        grid, standardiser = made()
        scored = History()
        with unfinished.restoring():
            _restore(found, grid, standardiser, scored, blank(), 3)
        assert 1 <= len(scored.epochs) <= 3
        assert all(bool(torch.isfinite(t).all()) for part in grid.state().values() for t in part)

    return trial
