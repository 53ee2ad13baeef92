"""Runs of a suite as processes: one after another or several at once, each with its log; a failed one stops none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import UserError
from evaluate.suites.job import Job, python_command
from evaluate.suites.progress import Progress
from evaluate.suites.warm import WarmStart

_PATIENCE = 20.0  # seconds that an interrupted run gets to write its state


@dataclass(frozen=True)
class Slot:
    """Resources of one of several concurrent runs."""

    device: str
    """`cpu` or `cuda`."""
    workers: int
    """Loader processes."""
    environment: Mapping[str, str]
    """Variables that confine the run to its threads or its GPU."""


@dataclass(frozen=True)
class Failure:
    run: Job
    sentence: str
    """The last line of its log, or what is wrong with its result."""


def thread_limits(jobs: int) -> dict[str, str]:
    """Variables that give each of the runs at once its share of the CPU cores, or fewer where one of them does so."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    given = [int(value) for name in names if (value := os.environ.get(name, "")).isdigit() and int(value)]
    return dict.fromkeys(names, str(max(1, min([_cores() // jobs, *given]))))


def make_slots(jobs: int, device: str, per_gpu: int = 1) -> list[Slot]:
    """One for each of the runs at once. `UserError` for more than `per_gpu` on each GPU, or than CPU cores."""
    import torch

    cores = _cores()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        if jobs > len(gpus) * per_gpu:
            raise UserError(f"--jobs {jobs} needs more GPUs than the {len(gpus)} here, {per_gpu} per GPU; lower it")
        # The engines of the dense tasks take the first GPU they see, so each run sees one alone.
        workers = min(8, cores // jobs)
        return [Slot("cuda", workers, {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}) for number in range(jobs)]
    if jobs > cores:
        raise UserError(f"--jobs {jobs} is more than the {cores} CPU cores; lower it")
    return [Slot("cpu", cores // jobs - 1, {"CUDA_VISIBLE_DEVICES": "", **thread_limits(jobs)})] * jobs


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Process(Protocol):
    """A running process, as `subprocess.Popen` and `warm.WarmProcess` give it."""

    pid: int
    """Its id, and that of its group."""

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Exit code at the end. Raises `subprocess.TimeoutExpired`."""
        ...


def run_all(
    runs: Sequence[Job], slots: Sequence[Slot], progress: Progress, warm: WarmStart | None = None
) -> list[Failure]:
    """Runs everything and returns the failures. On KeyboardInterrupt the runs are stopped before it propagates.

    `warm`: starts evaluations with their imports done; None: each run is a new interpreter.
    """
    waiting, free = list(runs), list(slots)
    running: list[tuple[Job, Slot, Process]] = []
    failures: list[Failure] = []
    try:
        while waiting or running:
            while waiting and free:
                run = waiting.pop(0)
                progress.started(run)
                try:
                    running.append((run, free[0], _start(run, free[0], warm)))
                    free.pop(0)
                except UserError as error:
                    failures.append(Failure(run, str(error)))
                    progress.ended(run, str(error), failed=True)
            time.sleep(0.2)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                run, slot, process = entry
                running.remove(entry)
                free.append(slot)
                failed = process.poll() != 0 or not run.written()
                sentence = last_line(run.log)
                if not failed:
                    try:
                        sentence = run.numbers()
                    except UserError as error:
                        failed, sentence = True, str(error)
                if failed:
                    failures.append(Failure(run, sentence))
                progress.ended(run, sentence, failed)
            progress.tick(lambda run: last_line(run.log))
    finally:
        _stop([process for _, _, process in running])
    return failures


def run_stoppably(
    jobs: Sequence[Job], slots: Sequence[Slot], known: Mapping[str, float], server: WarmStart | None = None
) -> list[Failure]:
    """`run_all` with progress printed; Ctrl-C and SIGTERM stop all runs and say that the same command resumes.

    `known`: seconds of a run by protocol. `server`: starts the runs; None: one of its own.
    """
    if not jobs:
        return []
    threads = {name: value for name, value in slots[0].environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    server = WarmStart(threads) if server is None else server
    progress = Progress(jobs, len(slots), known)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is like Ctrl-C
    try:
        return run_all(jobs, slots, progress, server)
    except KeyboardInterrupt:
        print(f"\nstopped at {progress.overall()}; the same command resumes", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def end_for(failures: Sequence[Failure]) -> None:
    """Reports the failed runs and ends with exit code 1; returns where none failed."""
    for failure in failures:
        print(f"failed: {failure.run.title}: {failure.sentence} (log: {failure.run.log})", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed; the same command runs only those again", file=sys.stderr)
        sys.exit(1)


def last_line(log: Path) -> str:
    """The last line that is not empty; a bar that was drawn over and over counts as its last state."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return "no output yet"
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "no output yet")


def _start(run: Job, slot: Slot, warm: WarmStart | None) -> Process:
    command = python_command(run, slot.device, slot.workers)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        if warm is not None:
            return warm.start(command, run.log, slot.environment)
        with run.log.open("ab") as log:
            # The run inherits the lock with its output, and so holds it even where the suite itself was killed.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            # A session of its own: Ctrl-C reaches the suite alone, which then asks its runs to stop.
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment}, start_new_session=True,
            )  # fmt: skip
    except BlockingIOError:
        raise UserError(f"{run.folder} is in use by another process; wait for it, or end it first") from None
    except OSError as error:
        raise UserError(f"can't write {run.log}: {error.strerror}; choose another folder with --results") from None


def _stop(processes: Sequence[Process]) -> None:
    for sent in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                _signal(process.pid, sent)
        until = time.monotonic() + _PATIENCE
        for process in processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue


def _signal(pid: int, sent: int) -> None:
    """Sends a signal to the run's group; to the run alone where it has no group yet."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(pid, sent)
        except ProcessLookupError:
            os.kill(pid, sent)
