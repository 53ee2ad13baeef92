"""One run of the engine: train, or go on where a killed run stopped, then test; its files and how they stay safe."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoints import read_tensors, write_atomically
from core.distributed import Processes, gather_objects, wait_for_all
from core.errors import UserError
from evaluate.segmentation.broken_file import BROKEN_FILE, read_lines

ENGINE_FOLDER = "engine"
"""Below the result's folder: the engine's checkpoints and its resolved config, while training."""
SEGMENTOR = "segmentor.pth"
"""Below the result's folder: the trained model, once training has ended."""
_IDENTITY = "identity.json"
_ENDED = ".engine-of-an-ended-run"


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    checkpoint: str = ""
    """The file that it goes on from; empty for the beginning."""
    iteration: int = -1
    """What of the metrics stays: lines up to this iteration."""
    seconds: float = 0.0
    """Wall time of the parts before."""


def prepare_folder(out: Path, identity: dict[str, Any], resume: bool, broken: Iterable[str] = ()) -> Start:
    """Makes the engine's folder, or finds the checkpoint that `--resume` goes on from; only the main process calls it.

    `identity`: what must be equal in a run that goes on; `broken`: training images to be named in the folder. Raises
    `UserError` for an unfinished run that would be overwritten, for another run's, and for a checkpoint that holds more
    than plain values.
    """
    work = out / ENGINE_FOLDER
    shutil.rmtree(out / _ENDED, ignore_errors=True)
    newest = _newest(work)
    if newest is None:
        if work.is_dir() and any(work.iterdir()) and not (work / _IDENTITY).is_file():
            raise UserError(f"{work} is no folder of this program and is left alone; choose another --out")
        shutil.rmtree(work, ignore_errors=True)
        text = json.dumps(identity, indent=1, sort_keys=True)
        write_atomically(work / _IDENTITY, lambda partial: partial.write_text(text, encoding="utf-8"))
        (work / BROKEN_FILE).write_text("".join(f"{name}\n" for name in broken), encoding="utf-8")
        return Start()
    if not resume:
        raise UserError(f"{work} holds an unfinished run; go on with --resume, or remove that folder to start again")
    try:
        known = dict(json.loads((work / _IDENTITY).read_text(encoding="utf-8")))
    except (TypeError, OSError, ValueError, RecursionError):
        raise UserError(f"{work / _IDENTITY} can't be read; remove the folder to start again") from None
    different = sorted(key for key in identity.keys() | known.keys() if identity.get(key) != known.get(key))
    if different:
        raise UserError(f"{work} holds another run (different: {', '.join(different)}); choose another --out")
    document = read_tensors(newest)  # refuses what the engine must not see
    if (
        not isinstance(document, dict)
        or not {"state_dict", "optimizer", "meta"} <= document.keys()
        or not isinstance(document["meta"], dict)
        or not {"iter", "seconds"} <= document["meta"].keys()
    ):
        raise UserError(f"{newest} is no checkpoint of a segmentation run; remove {work} to start again")
    return Start(str(newest), document["meta"]["iter"], document["meta"]["seconds"])


def finished_result(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a run that has ended, None where there is none or it is being replaced.

    Raises `UserError` where it was got with other `settings`.
    """
    file = out / "result.json"
    if not file.is_file() or (out / ENGINE_FOLDER).is_dir():
        return None
    mine = json.loads(json.dumps(settings))
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        different = sorted(key for key in mine if document["settings"].get(key) != mine[key])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is not a result of this project; choose another --out") from None
    if different:
        raise UserError(
            f"{file} is of a finished run with other settings (different: {', '.join(different)}); choose another "
            f"--out, or leave out --resume to measure again"
        )
    return document


def broken_in_training(out: Path) -> list[str]:
    """The training images that were left out, each with what is wrong with it."""
    return read_lines(out / ENGINE_FOLDER / BROKEN_FILE)


def forget_engine(out: Path) -> None:
    """Removes what could be resumed, once the result is written; killed within, it leaves nothing half there."""
    (out / ENGINE_FOLDER).rename(out / _ENDED)
    shutil.rmtree(out / _ENDED)


def _newest(work: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the engine's pointer moves after that."""
    try:
        named = Path((work / "last_checkpoint").read_text(encoding="utf-8").strip())
    except OSError:
        return None
    # The pointer holds a whole path; the folder may have been moved, and nothing outside it is ever opened.
    file = work / named.name
    return file if file.is_file() else None


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

    import evaluate.segmentation.autocast
    import evaluate.segmentation.dataset
    import evaluate.segmentation.layer_decay
    import evaluate.segmentation.metric
    import evaluate.segmentation.transforms  # noqa: F401, what the settings name is registered here
    from evaluate.segmentation.hooks import PlainCheckpointHook, ProgressHook, TestProgressHook

    hooks = [ProgressHook(every, record, processes.main), PlainCheckpointHook(started)]
    if processes.main:
        hooks.append(TestProgressHook())
    settings = settings | {"load_from": checkpoint or None, "resume": bool(checkpoint)}
    cfg = Config(settings)
    taken = ("train_dataloader", "test_dataloader", "test_evaluator", "optim_wrapper", "param_scheduler", "train_cfg",
             "test_cfg", "default_hooks", "work_dir", "launcher", "env_cfg", "randomness", "log_level", "resume",
             "load_from", "default_scope")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within the engine, and of torch's within it
        try:
            runner = Runner(model=model, custom_hooks=hooks, cfg=cfg, **{key: cfg[key] for key in taken})
            runner.train()
            metrics = runner.test()
        except UserError as error:
            raise UserError(_own_sentence(str(error))) from None
    metrics = gather_objects(dict(metrics))[0]
    if processes.main:
        _keep_segmentor(out, settings["train_cfg"]["max_iters"])
    wait_for_all()
    trained = runner.model
    return metrics, getattr(trained, "module", trained)


def _own_sentence(text: str) -> str:
    """A loader process's `UserError` arrives wrapped in its traceback; its last line is ours."""
    return text.strip().splitlines()[-1].partition("UserError: ")[2] or text if "Original Traceback" in text else text


def _keep_segmentor(out: Path, iterations: int) -> None:
    """Keeps the weights of the last checkpoint."""
    document = read_tensors(out / ENGINE_FOLDER / f"iter_{iterations}.pth")
    kept = {key: document[key] for key in ("meta", "state_dict")}
    write_atomically(out / SEGMENTOR, lambda partial: torch.save(kept, partial))
