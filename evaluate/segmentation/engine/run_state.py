"""Files of one run of the engine: whose they are, where to resume, and how they are kept safe."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoints import read_tensors
from core.config import rename_keys, to_dict
from core.coverage import load_completely
from core.data.broken import BROKEN_FILE, read_lines
from core.errors import UserError
from core.files.atomic_file import write_atomically
from evaluate.common.protocol import flat
from evaluate.segmentation.protocol import SegmentConfig

ENGINE_FOLDER = "engine"
"""Folder of the engine's checkpoints while training, in the result's folder."""
SEGMENTOR = "segmentor.pth"
"""File of the trained model, in the result's folder."""
_IDENTITY = "identity.json"
_FINISHED = ".engine-of-an-ended-run"


@dataclass(frozen=True)
class Start:
    """Starting point of a run."""

    checkpoint: str = ""
    """File to resume from; empty for a new run."""
    iteration: int = -1
    """Last iteration whose metrics are kept."""
    seconds: float = 0.0
    """Wall time of the earlier parts."""
    skipped_checkpoints: tuple[str, ...] = ()
    """Names of newer checkpoints that can't be opened."""


def prepare_folder(out: Path, identity: dict[str, Any], restart: bool = False, broken: Iterable[str] = ()) -> Start:
    """Creates the engine's folder, or finds the checkpoint to resume from; only the main process calls it.

    `identity`: values that must be equal for a run to be resumed; `restart`: discards an unfinished run; `broken`:
    training images to list in the folder. If the engine's pointer to the last checkpoint is empty or missing, the
    newest one that opens is used. Raises `UserError` for another run's folder, if no checkpoint opens, and for a
    checkpoint that holds more than plain values.
    """
    work = out / ENGINE_FOLDER
    shutil.rmtree(out / _FINISHED, ignore_errors=True)
    ours, saved = (work / _IDENTITY).is_file(), _checkpoints(work)
    if not ours and not saved and work.is_dir() and any(work.iterdir()):
        raise UserError(f"{work} was not written by this program and is left untouched; choose another --out")
    if ours and restart:
        shutil.rmtree(work)
        saved = []
    start = Start()
    if saved:
        _same_run(work, identity)
        start = _resume_point(work, saved)
    if not start.checkpoint:
        text = json.dumps(identity, indent=1, sort_keys=True)
        write_atomically(work / _IDENTITY, lambda partial: partial.write_text(text, encoding="utf-8"))
        (work / BROKEN_FILE).write_text("".join(f"{name}\n" for name in broken), encoding="utf-8")
    return start


def _same_run(work: Path, identity: dict[str, Any]) -> None:
    try:
        document = json.loads((work / _IDENTITY).read_text(encoding="utf-8"))
        known = flat(document | {"settings": _with_new_keys(document.get("settings", {}))})
    except (AttributeError, TypeError, OSError, ValueError, RecursionError):
        raise UserError(f"{work / _IDENTITY} can't be read; remove the folder to start over") from None
    mine = flat(json.loads(json.dumps(identity)))
    for key in mine:  # runs from before versions existed
        if key.rpartition(".")[2] == "protocol_version":
            known.setdefault(key, 1)
    known = _defaults(mine, "settings.") | known
    if different := sorted(key for key in mine.keys() | known.keys() if mine.get(key) != known.get(key)):
        raise UserError(
            f"{work} holds another run (different: {', '.join(different)}); choose another --out, or discard that run "
            f"with --restart"
        )


def _resume_point(work: Path, saved: list[Path]) -> Start:
    """Checkpoint that the engine's pointer names; without a valid pointer the newest of `saved` that opens."""
    pointer = work / "last_checkpoint"
    try:
        # The pointer holds an absolute path; the folder may have been moved, and nothing outside it is ever opened.
        named = work / Path(pointer.read_text(encoding="utf-8", errors="replace").strip()).name
    except OSError:
        named = work
    if named in saved:
        return _open(named)
    skipped: list[str] = []
    for file in saved:  # the engine does not write its pointer atomically: a full disk or a kill leaves it empty
        try:
            return dataclasses.replace(_open(file), skipped_checkpoints=tuple(skipped))
        except UserError:
            skipped.append(file.name)
    if len(saved) < 2 and not pointer.exists():
        return Start()  # killed before its first checkpoint was complete
    raise UserError(
        f"no checkpoint in {work} can be opened ({', '.join(skipped)}); restore one, or start over with --restart"
    )


def _open(file: Path) -> Start:
    document = read_tensors(file)  # refuses what the engine must not see
    if (
        not isinstance(document, dict)
        or not {"state_dict", "optimizer", "meta"} <= document.keys()
        or not isinstance(document["meta"], dict)
        or not {"iter", "seconds"} <= document["meta"].keys()
    ):
        raise UserError(f"{file} is not a checkpoint of a segmentation run; start over with --restart")
    return Start(str(file), document["meta"]["iter"], document["meta"]["seconds"])


def _checkpoints(work: Path) -> list[Path]:
    """Checkpoints in the folder, newest first."""
    numbered = {
        file: int(found[1])
        for file in work.glob("iter_*.pth")
        if (found := re.fullmatch(r"iter_(\d+)\.pth", file.name))
    }
    return sorted(numbered, key=lambda file: -numbered[file])


def finished_result(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Result of a finished run; None if there is none or it is being replaced.

    `settings`: those that comparable runs share, by full key. Raises `UserError` if the result has other settings.
    """
    file = out / "result.json"
    if not file.is_file() or (out / ENGINE_FOLDER).is_dir():
        return None
    mine = json.loads(json.dumps(settings))
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        theirs = _defaults(mine) | {"protocol_version": 1} | _with_new_keys(flat(document["settings"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is not a result of this project; choose another --out") from None
    if different := sorted(key for key in mine if theirs.get(key) != mine[key]):
        raise UserError(
            f"{file} is the result of a run with other settings (different: {', '.join(different)}); choose another "
            f"--out, or train again with --restart"
        )
    return document


def load_trained(out: Path, model: nn.Module) -> bool:
    """Loads the weights of a finished run into `model`; False if the file is missing.

    Raises `UserError` if they are damaged or belong to another model.
    """
    file = out / SEGMENTOR
    if not file.is_file():
        return False
    document = read_tensors(file)
    if not isinstance(document, dict) or not isinstance(document.get("state_dict"), dict):
        raise UserError(f"{file} holds no segmentor; train again with --restart")
    load_completely(model, document["state_dict"], str(file))
    return True


def broken_in_training(out: Path) -> list[str]:
    """Broken training images that were skipped, each with the reason."""
    return read_lines(out / ENGINE_FOLDER / BROKEN_FILE)


def clear_run(out: Path) -> None:
    """Removes the state once the result is written; if killed, it leaves no partial state behind."""
    (out / ENGINE_FOLDER).rename(out / _FINISHED)
    shutil.rmtree(out / _FINISHED)


def keep_segmentor(out: Path, iterations: int) -> None:
    """Copies the weights of the last checkpoint to `out/segmentor.pth`."""
    document = read_tensors(out / ENGINE_FOLDER / f"iter_{iterations}.pth")
    kept = {key: document[key] for key in ("meta", "state_dict")}
    write_atomically(out / SEGMENTOR, lambda partial: torch.save(kept, partial))


def _defaults(mine: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Default of each setting among the keys of `mine`: runs from before a setting was added had this value."""
    values = json.loads(json.dumps(flat(to_dict(SegmentConfig()))))
    return {prefix + key: value for key, value in values.items() if prefix + key in mine}


def _with_new_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by full key under today's names; runs from before a renaming hold the old ones."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return flat(rename_keys(SegmentConfig, nested))
