"""Starts scripts on the CPU as a user would, alone or under torchrun, and gives back what they printed.

The processes are forked from a server that has imported the heavy libraries (tests/warm); `fresh_python` tests
the start itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.warm import client

ROOT = Path(__file__).resolve().parent.parent
WARM = "SSL_TRANSFER_WARM"
"""Environment variable: the folder of the server's socket and of its stand-in `python`, set by tests/conftest.py."""
XDIST = "xdist-python"
"""Stand-in for the interpreter of pytest-xdist's processes, in the same folder."""


def warm_python() -> Path:
    """Path of the stand-in for the interpreter, beside torchrun's and pytest-xdist's; starts the server if need be."""
    folder = Path(os.environ[WARM])
    program, address = folder / "python", folder / "socket"
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            source = (ROOT / "tests/warm/client.py").read_text(encoding="utf-8")
            source = source.replace('REAL = ""', f"REAL = {sys.executable!r}", 1)
            source = source.replace('ADDRESS = ""', f"ADDRESS = {str(address)!r}", 1)
            server = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/warm/server.py"), str(address)], start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=(folder / "server.log").open("wb"),
            )  # fmt: skip
            (folder / "pid").write_text(str(server.pid))
            while not address.exists():
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.01)
            _write_program(folder / "torchrun", f'#!/bin/sh\nexec {program} -m torch.distributed.run "$@"\n')
            _write_program(folder / XDIST, f"#!/bin/sh\nexec {program} -m tests.warm.xdist_process {sys.executable}\n")
            _write_program(program, f"#!{sys.executable} -SI\n{source}")
    return program


def _write_program(file: Path, text: str) -> None:
    file.touch(0o755)
    file.write_text(text, encoding="utf-8")


def stop_warm_python(folder: Path) -> None:
    if (folder / "pid").exists():
        server = int((folder / "pid").read_text())
        os.kill(server, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # a process of pytest-xdist started it
            os.waitpid(server, 0)  # `time` then counts what ran in its processes
    shutil.rmtree(folder)


class Process:
    """A started script, with the names of subprocess.Popen; its output goes to unnamed files."""

    def __init__(self, *words: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        program = warm_python()
        self._files = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]  # noqa: SIM115
        with open(os.devnull) as nothing:
            streams = (nothing.fileno(), *(file.fileno() for file in self._files))
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
            self._status, self.pid = client.ask(
                str(program.with_name("socket")), words, str(cwd), environment, str(program), streams
            )
        self.args = words
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                received = self._status.recv(4)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self.returncode = int.from_bytes(received, "little", signed=True)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, and what it printed to standard error, once it has ended."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for file in self._files:
            file.seek(0)
        return self._files[0].read(), self._files[1].read()


def python(*words: str, timeout: int = 240, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a script, `-m MODULE` or `-c CODE` in a process of one thread that has imported the heavy libraries."""
    process = Process(*words, env=env)
    output, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(words, process.wait(), output, errors)


def fresh_python(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the interpreter itself, which has imported nothing."""
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def torchrun(script: Path, *arguments: str, processes: int = 2, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    """Runs `script` in `processes` gloo processes of one thread each; the caller checks the return code."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    path = os.pathsep.join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    return python(*launcher, str(script), *arguments, timeout=timeout, env={"PYTHONPATH": path})
