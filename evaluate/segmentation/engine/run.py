"""One run of the engine: train, or go on where a killed run stopped, then test; its files and how they stay safe."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoints import read_tensors
from core.coverage import load_completely
from core.distributed import Processes, gather_objects, wait_for_all
from core.errors import UserError
from core.files.atomic_file import write_atomically
from evaluate.common.broken_file import BROKEN_FILE, read_lines
from evaluate.common.protocol import flat

ENGINE_FOLDER = "engine"
"""Below the result's folder: the engine's checkpoints and its resolved config, while training."""
SEGMENTOR = "segmentor.pth"
"""Below the result's folder: the trained model, once training has ended."""
_IDENTITY = "identity.json"
_FINISHED = ".engine-of-an-ended-run"


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    checkpoint: str = ""
    """The file that it goes on from; empty for the beginning."""
    iteration: int = -1
    """What of the metrics stays: lines up to this iteration."""
    seconds: float = 0.0
    """Wall time of the parts before."""
    skipped_checkpoints: tuple[str, ...] = ()
    """Names of newer checkpoints that can't be opened."""


def prepare_folder(out: Path, identity: dict[str, Any], restart: bool = False, broken: Iterable[str] = ()) -> Start:
    """Makes the engine's folder, or finds the checkpoint to go on from; only the main process calls it.

    `identity`: what must be equal in a run that goes on; `restart`: an unfinished run is given up; `broken`: training
    images to be named in the folder. Where the engine's pointer to the last checkpoint is empty or lost, the newest one
    that opens is taken. Raises `UserError` for another run's folder, where no checkpoint opens, and for a checkpoint
    that holds more than plain values.
    """
    work = out / ENGINE_FOLDER
    shutil.rmtree(out / _FINISHED, ignore_errors=True)
    ours, saved = (work / _IDENTITY).is_file(), _checkpoints(work)
    if not ours and not saved and work.is_dir() and any(work.iterdir()):
        raise UserError(f"{work} is no folder of this program and is left alone; choose another --out")
    if ours and restart:
        shutil.rmtree(work)
        saved = []
    start = Start()
    if saved:
        _same_run(work, identity)
        start = _where_to_go_on(work, saved)
    if not start.checkpoint:
        text = json.dumps(identity, indent=1, sort_keys=True)
        write_atomically(work / _IDENTITY, lambda partial: partial.write_text(text, encoding="utf-8"))
        (work / BROKEN_FILE).write_text("".join(f"{name}\n" for name in broken), encoding="utf-8")
    return start


def _same_run(work: Path, identity: dict[str, Any]) -> None:
    try:
        known = flat(json.loads((work / _IDENTITY).read_text(encoding="utf-8")))
    except (AttributeError, TypeError, OSError, ValueError, RecursionError):
        raise UserError(f"{work / _IDENTITY} can't be read; remove the folder to start again") from None
    mine = flat(json.loads(json.dumps(identity)))
    if different := sorted(key for key in mine.keys() | known.keys() if mine.get(key) != known.get(key)):
        raise UserError(
            f"{work} holds another run (different: {', '.join(different)}); choose another --out, or give that run up "
            f"with --restart"
        )


def _where_to_go_on(work: Path, saved: list[Path]) -> Start:
    """The checkpoint that the engine's pointer names; where it names none, the newest of `saved` that opens."""
    pointer = work / "last_checkpoint"
    try:
        # The pointer holds a whole path; the folder may have been moved, and nothing outside it is ever opened.
        named = work / Path(pointer.read_text(encoding="utf-8", errors="replace").strip()).name
    except OSError:
        named = work
    if named in saved:
        return _open(named)
    skipped_checkpoints: list[str] = []
    for file in saved:  # the engine does not write its pointer atomically: a full disk or a kill leaves it empty
        try:
            return dataclasses.replace(_open(file), skipped_checkpoints=tuple(skipped_checkpoints))
        except UserError:
            skipped_checkpoints.append(file.name)
    if len(saved) < 2 and not pointer.exists():
        return Start()  # killed before its first checkpoint was whole
    raise UserError(
        f"no checkpoint in {work} can be opened ({', '.join(skipped_checkpoints)}); bring one back, or start again "
        f"with --restart"
    )


def _open(file: Path) -> Start:
    document = read_tensors(file)  # refuses what the engine must not see
    if (
        not isinstance(document, dict)
        or not {"state_dict", "optimizer", "meta"} <= document.keys()
        or not isinstance(document["meta"], dict)
        or not {"iter", "seconds"} <= document["meta"].keys()
    ):
        raise UserError(f"{file} is no checkpoint of a segmentation run; start again with --restart")
    return Start(str(file), document["meta"]["iter"], document["meta"]["seconds"])


def _checkpoints(work: Path) -> list[Path]:
    """All checkpoints in the folder, the newest first."""
    numbered = {
        file: int(found[1])
        for file in work.glob("iter_*.pth")
        if (found := re.fullmatch(r"iter_(\d+)\.pth", file.name))
    }
    return sorted(numbered, key=lambda file: -numbered[file])


def finished_result(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a run that has ended, None where there is none or it is being replaced.

    `settings`: those that two equal measurements have in common, by their whole keys. Raises `UserError` where it was
    got with others.
    """
    file = out / "result.json"
    if not file.is_file() or (out / ENGINE_FOLDER).is_dir():
        return None
    mine = json.loads(json.dumps(settings))
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        theirs = flat(document["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is not a result of this project; choose another --out") from None
    if different := sorted(key for key in mine if theirs.get(key) != mine[key]):
        raise UserError(
            f"{file} is of a finished run with other settings (different: {', '.join(different)}); choose another "
            f"--out, or train and measure anew with --restart"
        )
    return document


def load_trained(out: Path, model: nn.Module) -> bool:
    """Gives `model` the weights that a finished run has kept; False where they are gone.

    Raises `UserError` where they are damaged or another model's.
    """
    file = out / SEGMENTOR
    if not file.is_file():
        return False
    document = read_tensors(file)
    if not isinstance(document, dict) or not isinstance(document.get("state_dict"), dict):
        raise UserError(f"{file} holds no segmentor; train it anew with --restart")
    load_completely(model, document["state_dict"], str(file))
    return True


def broken_in_training(out: Path) -> list[str]:
    """The training images that were left out, each with what is wrong with it."""
    return read_lines(out / ENGINE_FOLDER / BROKEN_FILE)


def forget_engine(out: Path) -> None:
    """Removes what could be resumed, once the result is written; killed within, it leaves nothing half there."""
    (out / ENGINE_FOLDER).rename(out / _FINISHED)
    shutil.rmtree(out / _FINISHED)


def train_and_test(
    settings: dict[str, Any],
    model: nn.Module,
    out: Path,
    checkpoint: str,
    started: float,
    every: int,
    record: Callable[[int, dict[str, float]], object],
    processes: Processes,
) -> tuple[dict[str, Any], nn.Module]:
    """Runs the engine; gives the metrics of `scores` and the trained model, the same on all processes.

    `checkpoint`: where to go on, or ""; `started`: time.time() at the start, less the time of the parts before. The
    trained model is left in `out/segmentor.pth`.
    """
    from mmengine.config import Config
    from mmengine.runner import Runner

    # The settings name classes that are registered in these files.
    import evaluate.segmentation.data.dataset
    import evaluate.segmentation.data.transforms
    import evaluate.segmentation.engine.autocast
    import evaluate.segmentation.engine.layer_decay
    import evaluate.segmentation.engine.metric  # noqa: F401
    from evaluate.segmentation.engine.hooks import PlainCheckpointHook, ProgressHook, TestProgressHook

    hooks = [ProgressHook(every, record, processes.is_main), PlainCheckpointHook(started)]
    if processes.is_main:
        hooks.append(TestProgressHook())
    settings = settings | {"load_from": checkpoint or None, "resume": bool(checkpoint)}
    cfg = Config(settings, format_python_code=False)  # its formatter takes seconds where paths are long
    taken = ("train_dataloader", "test_dataloader", "test_evaluator", "optim_wrapper", "param_scheduler", "train_cfg",
             "test_cfg", "default_hooks", "work_dir", "launcher", "env_cfg", "randomness", "log_level", "resume",
             "load_from", "default_scope")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within the engine, and of torch's within it
        runner = Runner(model=model, custom_hooks=hooks, cfg=cfg, **{key: cfg[key] for key in taken})
        runner.train()
        metrics = runner.test()
    metrics = gather_objects(dict(metrics))[0]
    if processes.is_main:
        _keep_segmentor(out, settings["train_cfg"]["max_iters"])
    wait_for_all()
    trained = runner.model
    return metrics, getattr(trained, "module", trained)


def _keep_segmentor(out: Path, iterations: int) -> None:
    """Keeps the weights of the last checkpoint."""
    document = read_tensors(out / ENGINE_FOLDER / f"iter_{iterations}.pth")
    kept = {key: document[key] for key in ("meta", "state_dict")}
    write_atomically(out / SEGMENTOR, lambda partial: torch.save(kept, partial))
