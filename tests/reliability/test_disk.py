"""Full and read-only disks: one sentence, exit code 2, existing files stay, and the same command resumes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.checkpoints import load_exported, load_training_state, training_states
from tests.reliability.tiny_runs import last_state, metrics, run_here, same_bits, tiny, write_recipe
from tests.torchrun import python

_BACKBONE = "timm:resnet18(channels=[8,8,16,24], stem=small)"


class Disk:
    """A file system of its own, of a given size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def mount(self, size: str) -> None:
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"can't mount a small disk: {error}")
        if done.returncode:
            pytest.skip(f"can't mount a small disk: {done.stderr.strip()}")

    def fill(self, but: int) -> None:
        """Leaves `but` bytes free, in blocks of 4,096."""
        import os

        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        with self._filling.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - but)

    def empty(self) -> None:
        self._filling.unlink()

    def remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    small = Disk(tmp_path / "disk")
    try:
        yield small
    finally:
        subprocess.run(["umount", "-l", str(small.path)], capture_output=True, check=False)


def pretrain(recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    given = ["--config", str(recipe), "--out", str(out), "--device", "cpu", "--workers", "0", *more]
    return python("pretrain/run.py", *given)


def reported(done: subprocess.CompletedProcess[str]) -> str:
    """The sentence that a mistake ends with; no traceback beside it."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    last = done.stderr.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    "room",
    [pytest.param(8_192, marks=pytest.mark.slow), 150_000, pytest.param(330_000, marks=pytest.mark.slow)],
)
def test_a_full_disk_stops_pre_training_and_it_resumes_once_there_is_room(
    room: int, image_folder: Path, tmp_path: Path, disk: Disk
) -> None:
    """Full within an export, within the state, and within a later one; after two epochs in any case."""
    disk.mount("20m")
    out = disk.path / "run"
    whole = run_here(tiny(image_folder), tmp_path / "whole")
    recipe = write_recipe(tmp_path / "r.yaml", image_folder)
    assert pretrain(recipe, out, "--debug").returncode == 0
    for state in training_states(out / "checkpoints")[-1:]:
        state.unlink()  # as after three of four epochs
    kept = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    disk.fill(but=room)
    sentence = reported(pretrain(recipe, out))
    assert "No space left on device" in sentence
    for name, content in kept.items():
        assert (out / "checkpoints" / name).read_bytes() == content
    for state in training_states(out / "checkpoints"):
        load_training_state(state)
    assert not [path.name for path in out.rglob("*") if "partial" in path.name]
    disk.empty()
    assert pretrain(recipe, out).returncode == 0
    assert same_bits(last_state(out), whole)
    assert [line["step"] for line in metrics(out)] == list(range(1, 9))
    load_exported(out / "backbone.safetensors")


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(image_folder: Path, tmp_path: Path, disk: Disk) -> None:
    disk.mount("20m")
    out = disk.path / "run"
    recipe = write_recipe(tmp_path / "r.yaml", image_folder)
    assert pretrain(recipe, out).returncode == 0
    training_states(out / "checkpoints")[-1].unlink()
    disk.remount("ro")
    assert "Read-only file system" in reported(pretrain(recipe, out))
    given = [
        "--ckpt",
        str(out),
        "--protocol",
        "knn_dino",
        "--data",
        f"folder:{image_folder}",
        "--workers",
        "0",
        "ks=[1]",
    ]
    given += ["features.transform.resize=32", "features.transform.crop=32", "--device", "cpu"]
    done = python("evaluate/knn.py", *given, "--out", str(disk.path / "knn"))
    assert "Read-only file system" in reported(done)
    disk.remount("rw")
    assert pretrain(recipe, out).returncode == 0
    assert python("evaluate/knn.py", *given, "--out", str(disk.path / "knn")).returncode == 0


@pytest.mark.slow
def test_a_full_disk_under_a_probe_its_cache_and_its_result(
    image_folder: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.mount("4m")
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(disk.path / "cache"))
    (tmp_path / "own.yaml").write_text(
        "name: own\nfeatures: {transform: {resize: 36, crop: 32}}\nlrs: [0.1]\nbatch: 6\nepochs: 2\nviews: cached\n"
    )
    given = ["--ckpt", _BACKBONE, "--config", str(tmp_path / "own.yaml"), "--data", f"folder:{image_folder}"]
    given += ["--workers", "0", "--device", "cpu", "--out", str(disk.path / "out")]
    rooms = {
        4_096: "can't keep",
        12_288: "",
        24_576: "",
        36_864: "",
        49_152: "",
    }  # features, their index, states, result
    for room, sentence in rooms.items():
        disk.fill(but=room)
        done = python("evaluate/linear.py", *given)
        disk.empty()
        if done.returncode:
            last = reported(done)
            assert "No space left on device" in last
            assert sentence in last
        left = [path.name for path in disk.path.rglob("*") if path.name.endswith((".partial", ".part", ".old"))]
        assert left == []
    assert python("evaluate/linear.py", *given).returncode == 0
    assert json.loads((disk.path / "out/result.json").read_text())["metrics"]["top1"] >= 0


def test_without_root_a_limit_on_file_sizes_stands_for_a_full_disk(image_folder: Path, tmp_path: Path) -> None:
    """The kernel refuses to write on, in the middle of a state; needs no disk of its own."""
    recipe = write_recipe(tmp_path / "r.yaml", image_folder)
    out = tmp_path / "run"
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    given = ["pretrain/run.py", "--config", str(recipe), "--out", str(out), "--device", "cpu", "--workers", "0"]
    sentence = reported(python("-c", limited, *given))
    assert f"can't write {out / 'checkpoints/step_000000002.pt'}" in sentence
    assert training_states(out / "checkpoints") == []
    load_exported(out / "backbone.safetensors")
    assert python(*given).returncode == 0
    assert same_bits(last_state(out), run_here(tiny(image_folder), tmp_path / "whole"))
