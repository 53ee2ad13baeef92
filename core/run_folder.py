"""A run's folder: resolved config, metrics.jsonl, checkpoints, and TensorBoard or W&B where asked for."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from core.config import save_config, to_dict
from core.errors import UserError
from core.files.atomic_file import write_atomically
from core.project import extra

Tracker = Literal["none", "tensorboard", "wandb"]


class _Sink(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class RunFolder:
    """Files of one run below `path`; only the main process makes one."""

    def __init__(self, path: Path, config: Any, tracker: Tracker = "none") -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / "config.yaml", lambda partial: save_config(config, partial))
            self._metrics = (path / "metrics.jsonl").open("ab", buffering=0)
        except OSError as error:
            raise UserError(f"can't write the run folder {path}: {error.strerror}; choose another with --out") from None
        self._sink = _open_sink(tracker, path, config)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends one line of plain values to metrics.jsonl and hands the numbers to the tracker.

        Raises `UserError` where the disk is full.
        """
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        with self._disk_trouble():
            while line:  # a full disk takes a part first, and refuses the rest
                line = line[self._metrics.write(line) :]
            if self._sink is not None:
                self._sink.write(step, {k: v for k, v in values.items() if isinstance(v, int | float)})

    def sync(self) -> None:
        """Puts all lines on disk: after a power cut a state must not be newer than its metrics."""
        with self._disk_trouble():
            os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Flushes everything to disk."""
        with self._disk_trouble():
            self._metrics.close()
            if self._sink is not None:
                self._sink.close()

    @contextmanager
    def _disk_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"can't write metrics in {self.path}: {error.strerror}; free space there and give the same command "
                f"again"
            ) from None


def drop_metrics_after(path: Path, step: int) -> None:
    """Removes lines of metrics.jsonl beyond `step`: a resumed run writes them again, equal."""
    file = path / "metrics.jsonl"
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a killed run may be cut short
    text = "".join(line + "\n" for line in kept)
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


class _TensorBoard:
    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(f"tracker=tensorboard needs TensorBoard: {extra('track')}") from None
        self._writer = SummaryWriter(str(path / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, path: Path, config: Any) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(f"tracker=wandb needs Weights & Biases: {extra('track')}") from None
        # Kept in the folder: a resumed run continues the same chart, and another folder of the same name doesn't.
        kept = path / "wandb_id.txt"
        if not kept.is_file():
            write_atomically(kept, lambda partial: partial.write_text(uuid.uuid4().hex, encoding="utf-8"))
        self._run = wandb.init(
            project="ssl-transfer", name=path.name, id=kept.read_text(encoding="utf-8"), dir=path,
            config=to_dict(config), resume="allow",
        )  # fmt: skip

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _open_sink(tracker: Tracker, path: Path, config: Any) -> _Sink | None:
    if tracker == "tensorboard":
        return _TensorBoard(path)
    if tracker == "wandb":
        return _WandB(path, config)
    return None
