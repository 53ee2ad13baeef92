"""Loader processes that die or find no shared memory, and folders that may not be read: a sentence, never a hang."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.data.readers.folder import Folder
from core.errors import BrokenImage, UserError, explain
from tests.reliability.tiny_runs import last_state, run_here, same_bits, tiny, write_images, write_recipe
from tests.torchrun import Process, python

_MOUNT = "mount -t tmpfs -o size=100k tmpfs /dev/shm"
_SMALL = f"""
import ctypes, runpy, subprocess, sys
assert ctypes.CDLL(None).unshare(0x20000) == 0  # mounts of its own
subprocess.run("mount --make-rprivate / && {_MOUNT}", shell=True, check=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(recipe: Path, out: Path) -> list[str]:
    given = ["--config", str(recipe), "--out", str(out), "--device", "cpu", "--workers", "2"]
    return ["pretrain/run.py", *given]


def test_a_loader_process_that_is_killed_ends_the_run_and_the_same_command_resumes(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = write_recipe(tmp_path / "r.yaml", image_folder, "epochs=60")
    process = Process(*command(recipe, out))
    lines = out / "metrics.jsonl"
    while process.poll() is None and not (lines.is_file() and lines.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    os.kill(int(children[-1]), signal.SIGKILL)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert re.search(r"error: .*\(Killed\).*--workers", errors)
    resumed = python(*command(recipe, out))
    assert resumed.returncode == 0, resumed.stderr
    assert same_bits(last_state(out), run_here(tiny(image_folder, "epochs=60"), tmp_path / "whole"))


def test_too_little_shared_memory_is_reported(image_folder: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "sh", "-c", _MOUNT], check=False).returncode:
        pytest.skip("can't give a process a small /dev/shm of its own")
    recipe = write_recipe(tmp_path / "r.yaml", image_folder)
    done = python("-c", _SMALL, *command(recipe, tmp_path / "run"))
    assert done.returncode == 2, done.stderr
    assert re.search("error: .*/dev/shm", done.stderr)
    assert "docker run --shm-size=8g" in done.stderr


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
                      "workers are out of shared memory."), "/dev/shm"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback …\nRuntimeError: unable "
                      "to write to file </torch_7_2>: No space left on device (28)"), "/dev/shm"),
        (OSError(28, "No space left on device"), "disk"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "loader process"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), "(Segmentation fault)"),
        (RuntimeError("shape mismatch"), ""),
        (OSError(28, "No space left on device", "/some/file"), ""),
        (ValueError("Connection closed by peer"), ""),
        (RuntimeError("Connection closed by peer"), ""),
    ],
)  # fmt: skip
def test_which_failure_gets_which_advice(error: Exception, reported: str) -> None:
    printed = explain(error)
    assert reported in printed
    assert bool(printed) == bool(reported)


def test_a_loader_process_that_dies_before_its_batch_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of its file descriptors ends first; the signal, whose handler is the DataLoader's, comes later."""
    from multiprocessing import connection, resource_sharer

    def connection_of_a_dead_process(*_: object, **__: object) -> None:
        raise EOFError

    def handler(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(connection, "Client", connection_of_a_dead_process)
    with pytest.raises(EOFError) as found:
        resource_sharer._resource_sharer.get_connection(("address", 1))
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert "(Killed)" in explain(found.value)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    monkeypatch.setattr("core.errors._SIGNAL_ARRIVES", 0.0)
    assert "a loader process has died" in explain(found.value)
    assert explain(EOFError()) == ""


@pytest.fixture
def images() -> Iterator[Path]:
    """Where another user may look, which he may not below pytest's own folders."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    write_images(root / "images")
    yield root / "images"
    subprocess.run(["chmod", "-R", "u+rwX", str(root)], check=True)
    shutil.rmtree(root)


def as_nobody(what: Callable[[], object]) -> object:
    """What `what` gives or raises for a user whom permissions bind: root is bound by none."""
    if os.geteuid() != 0:
        try:
            return what()
        except Exception as error:
            return error
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            found = what()
        except BaseException as error:
            found = error
        os.write(writer, pickle.dumps(found))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return pickle.loads(file.read())


@pytest.mark.parametrize(
    ("closed", "mode", "reported"),
    [
        ("", 0o000, "{}: Permission denied"),
        ("..", 0o000, "{}: Permission denied"),
        ("", 0o644, "{}"),  # its names can be listed, its files not opened
        ("dog", 0o000, "{}/dog: Permission denied"),
        ("dog/deep", 0o000, "{}/dog/deep: Permission denied"),
    ],
)
def test_a_folder_that_may_not_be_read_is_named(images: Path, closed: str, mode: int, reported: str) -> None:
    (images / "train/dog/deep").mkdir()
    root = images / "train"
    (root / closed).chmod(mode)
    error = as_nobody(lambda: Folder(root, "x").digest())
    assert isinstance(error, UserError), error
    assert reported.format(root) in str(error)
    assert "permission" in str(error).lower()


def test_a_file_that_may_not_be_read_counts_as_broken(images: Path) -> None:
    (images / "train/cat/2.jpg").chmod(0o000)
    error = as_nobody(lambda: Folder(images / "train", "x").image(2))
    assert isinstance(error, BrokenImage)
    assert error.where == str(images / "train/cat/2.jpg")
    assert "Permission denied" in error.reason


def test_a_file_that_goes_while_the_folder_is_opened(images: Path) -> None:
    folder, whole = Folder(images / "train", "x"), Folder(images / "train", "x").digest()
    (images / "train/cat/2.jpg").unlink()
    assert folder.digest() != whole
    with pytest.raises(BrokenImage, match=r"cat/2\.jpg.*No such file"):
        folder.image(2)
