"""The two expected errors, a user's mistake and an unreadable image, and how the machine's failures are reported."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Callable

_PEER_GONE = re.compile(r"onnection (closed|reset|refused)|pair closure|Broken pipe|Socket closed|recv.*failed", re.I)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? .*?(is killed by signal: ([\w ]+)|exited unexpectedly)")
_SIGNAL_ARRIVES = 5.0
"""Seconds within which a process learns that a child of its has died."""
_SHARED_MEMORY = re.compile(r"shared memory|\(shm\)|</torch_\d+|Bus error")
_KERNEL_TOO_LARGE = re.compile(
    r"out of resources?: shared memory|OutOfResources|OutOfMemoryError: out of resource", re.I
)
_NO_COMPILER = re.compile(r"No working C\+\+ compiler found|Failed to find C compiler")
_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|DefaultCPUAllocator: (?:can't|not enough)|HIP out of memory"
)


class UserError(ValueError):
    """A mistake that the user can fix. Its text is one sentence: what is wrong, where, and a way out."""

    def __init__(self, text: str) -> None:
        lines = str(text).splitlines()
        if lines and lines[0].startswith("Caught UserError in "):
            # A DataLoader raises a worker's error again with the worker's traceback as its text.
            prefix = f"{UserError.__module__}.{UserError.__qualname__}: "
            lines = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)][-1:] or lines
        # Names and values from files may hold line breaks; what is printed is one line.
        super().__init__(" ".join(lines))


class BrokenImage(Exception):
    """An image that can't be decoded. `where` names it (a path, or `shard.tar::member`)."""

    def __init__(self, where: str, reason: str) -> None:
        # Both values go to the base class: a worker process pickles the exception by its arguments.
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.reason}".splitlines())


def run_entry_point(main: Callable[[], None], memory_advice: str = "") -> None:
    """Runs `main`; a `UserError` becomes one line on stderr and exit code 2, without a traceback.

    OS errors about a file and known failures of the machine (`explain`) are reported the same way. `--debug` on the
    command line adds the traceback. Bugs (all other exceptions) keep theirs. An error that several processes share is
    printed once. `memory_advice`: settings that help if the memory runs out.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    # A notebook's child processes inherit its backend, which Matplotlib here may not have; no command opens windows.
    os.environ["MPLBACKEND"] = "agg"
    try:
        main()
        code = 0
    except UserError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        wait_for_root_cause(follows_from_another=False)
        print(f"error: {str(error).strip()}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our stdout (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        sentence = explain(error, memory_advice)
        if not sentence and isinstance(error, OSError) and error.filename is not None:
            # A name that is too long, a folder that can't be entered, a disk that went away.
            sentence = f"{error.filename}: {error.strerror}; give another path, or fix that one"
        if not sentence:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        wait_for_root_cause(follows_from_another=sentence.startswith("another process"))
        print(f"error: {sentence}", file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def explain(error: BaseException, memory_advice: str = "") -> str:
    """Sentence for the user about a known failure of the machine; empty for all other errors.

    `memory_advice`: settings of this command that lower its use of memory.
    """
    text = str(error)
    if _batch_was_lost(error):
        try:
            time.sleep(_SIGNAL_ARRIVES)
        except RuntimeError as cause:  # raised by the DataLoader's handler of signals; it names what killed the process
            return explain(cause, memory_advice)
        return _dead_worker("its connection ended")
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "")
    if isinstance(error, OSError):
        if error.errno != errno.ENOSPC or error.filename is not None:
            return ""
        return (
            "no space left on a disk that is written to, or in shared memory (/dev/shm); free space there, or pass "
            "--workers 0 if it is shared memory"
        )
    if _KERNEL_TOO_LARGE.search(text):
        return "a kernel compiled by Triton needs more shared memory than this GPU has; set compute.compile=false"
    if _NO_COMPILER.search(text):
        return (
            "compute.compile needs a C++ compiler (for a GPU a C compiler), and none works here; install g++, name one "
            "in the environment variable CXX (CC), or set compute.compile=false"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(text)):
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", text)
        amount = f" ({wanted.group(1).rstrip('.')} more were needed)" if wanted else ""
        where = "the GPU" if re.search("CUDA|CUBLAS|CUDNN", text) else "this machine"
        return f"out of memory on {where}{amount}; {memory_advice or 'lower the batch'}"
    if not isinstance(error, RuntimeError):
        return ""
    if _SHARED_MEMORY.search(text):
        return (
            "shared memory (/dev/shm) is too small for the loader processes; enlarge it (docker run --shm-size=8g), or "
            "pass --workers 0"
        )
    if dead := _DEAD_WORKER.search(text):
        return _dead_worker(dead.group(2) or "it exited by itself")
    if in_torchrun() and _PEER_GONE.search(text):
        return (
            f"another process of the run has ended, so rank {os.environ['RANK']} stops too; see that process's "
            f"message; the same command resumes the run"
        )
    return ""


def _dead_worker(how: str) -> str:
    return (
        f"a loader process has died ({how}), perhaps for lack of memory; lower --workers and run the same command again"
    )


def _batch_was_lost(error: BaseException) -> bool:
    """True for the error of a batch that couldn't be taken over, as its loader process died before it was."""
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, EOFError | OSError) and any(
        frame.f_code.co_filename.endswith("resource_sharer.py") for frame, _ in frames
    )


def _missing(module: str) -> str:
    """Sentence about a package that isn't installed; empty for modules of the project itself."""
    package = module.partition(".")[0]
    if package in ("", "core", "converters", "evaluate", "pretrain", "tests"):
        return ""
    from core.project import ROOT

    own = ROOT / ".venv" / "bin" / "python"
    way_out = f"use {os.path.relpath(own)}, or activate it" if own.exists() else "run make install"
    return f"the package {package} is not installed for {sys.executable}; {way_out} (see Install in README.md)"


def in_torchrun() -> bool:
    """True if torchrun started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def wait_for_root_cause(follows_from_another: bool) -> None:
    """Waits if another process of the host is likely to print the same error, or its cause.

    The launcher ends all others as soon as one has ended, so an error shared by all ranks is printed once; an error of
    one rank is printed after a short delay. `follows_from_another`: this process only stops because another one did.
    """
    if in_torchrun() and (follows_from_another or os.environ.get("LOCAL_RANK", "0") != "0"):
        time.sleep(10 if follows_from_another else 5)
