"""evaluate/segment.py resumes: after a kill at any moment, with a lost pointer, moved data; and what is kept safe."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from core.errors import UserError
from evaluate.segmentation.engine.run_state import Start, finished_result, prepare_folder
from tests.evaluate.segmentation.tiny_segmentation import (
    FILES,
    PROTOCOL,
    SCRIPT,
    arguments,
    own_ade20k,
    result,
    run,
    small_place,
    steps,
)
from tests.torchrun import Process, python


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yield from small_place(tmp_path_factory)


@pytest.fixture(scope="module")
def own(place: Path) -> list[str]:
    """Arguments for data of the user's own."""
    return own_ade20k(place, place / "ade")


@pytest.fixture(scope="module")
def killed(place: Path, own: list[str]) -> Path:
    """The folder of a run that was trained and then killed before it wrote its result."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evaluate.segmentation.run.write_result", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit, match="9"):
            run(*arguments(place, place / "killed", *own))
    return place / "killed"


@pytest.fixture
def out(killed: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(killed, tmp_path / "out")


@pytest.fixture
def finished(place: Path, own: list[str], out: Path) -> Path:
    """The same after the command has been given again."""
    run(*arguments(place, out, *own, "--draw", "2"))
    return out


def _identity(out: Path) -> dict[str, Any]:
    return json.loads((out / "engine/identity.json").read_text())


def test_nothing_is_lost_between_training_and_the_end(
    place: Path, own: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(place, out, *own, "--draw", "2")
    with monkeypatch.context() as patched:
        patched.setattr("evaluate.segmentation.pictures.draw_predictions", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit, match="9"):
            run(*given)
    first = result(out)
    seconds = torch.load(out / "engine/iter_6.pth", weights_only=True)["meta"]["seconds"]
    printed = run(*given)
    assert "(iteration 6)" in printed
    assert "loss" not in printed
    assert result(out)["metrics"] == first["metrics"]
    assert result(out)["wall_seconds"] > seconds > 0
    assert steps(out) == [2, 4, 6]
    assert sorted(file.name for file in out.iterdir()) == FILES


def test_a_finished_run_is_shown_and_kept(place: Path, own: list[str], finished: Path, tmp_path: Path) -> None:
    before = (finished / "result.json").read_bytes()
    pictures = {file.name: file.read_bytes() for file in (finished / "pictures").glob("*.png")}
    assert len(pictures) == 2
    shutil.rmtree(finished / "pictures")
    given = arguments(place, finished, *own)
    printed = run(*given, "--draw", "2")
    assert "finished" in printed
    assert f"mIoU {result(finished)['metrics']['mIoU']:.2f}" in printed
    assert "iteration" not in printed.partition("finished")[2]
    assert "pictures: 2 in " in printed
    assert {file.name: file.read_bytes() for file in (finished / "pictures").glob("*.png")} == pictures
    (finished / "segmentor.pth").unlink()
    printed = run(*given, "--draw", "2", "log_every=3")
    assert "no pictures" in printed
    assert f"{finished / 'segmentor.pth'} " in printed
    assert (finished / "result.json").read_bytes() == before
    (tmp_path / "tiny.yaml").write_text(PROTOCOL.replace("lr: 0.05", "lr: 0.04"))
    with pytest.raises(UserError, match=r"result\.json.*\(different: optim\.lr\)"):
        run(*arguments(tmp_path, finished, *own))
    printed = run(*given, "--restart", "checkpoint_every=6")
    assert "iteration 6/6" in printed
    assert "resumes" not in printed
    assert steps(finished) == [2, 4, 6]
    assert result(finished)["metrics"] == json.loads(before)["metrics"]
    assert (finished / "segmentor.pth").is_file()


def test_moved_data_and_other_logging_are_the_same_run(place: Path, own: list[str], out: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(place / "ade", tmp_path / "moved")
    (out / "engine/iter_6.pth").unlink()
    (out / "engine/last_checkpoint").write_text("/elsewhere/iter_4.pth")
    neutral = ["log_every=1", "checkpoint_every=3", "data.broken_share=0.1"]
    printed = run(*arguments(place, out, own[0], "--data", str(moved), *neutral))
    assert f"{out / 'engine/iter_4.pth'} (iteration 4)\n" in printed
    assert steps(out) == [2, 4, 5, 6]


@pytest.mark.parametrize("pointer", [None, "", "\n", "nonsense", "/elsewhere/iter_8.pth", b"\xff\0"])
def test_a_lost_pointer_loses_no_checkpoint(out: Path, pointer: Any) -> None:
    identity, file = _identity(out), out / "engine/last_checkpoint"
    assert Path(prepare_folder(out, identity).checkpoint).name == "iter_6.pth"
    file.unlink()
    if pointer is not None:
        file.write_bytes(pointer if isinstance(pointer, bytes) else pointer.encode())
    start = prepare_folder(out, identity)
    assert (start.checkpoint, start.iteration, start.skipped_checkpoints) == (str(out / "engine/iter_6.pth"), 6, ())
    newest = out / "engine/iter_6.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])  # the same full disk has cut it short
    start = prepare_folder(out, identity)
    assert (start.checkpoint, start.iteration) == (str(out / "engine/iter_4.pth"), 4)
    assert start.skipped_checkpoints == ("iter_6.pth",)
    older = out / "engine/iter_4.pth"
    older.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint.*\(iter_6\.pth, iter_4\.pth\)"):
        prepare_folder(out, identity)
    assert newest.exists()
    assert older.exists()
    older.unlink()
    if pointer is None:  # killed while it wrote the first one
        assert prepare_folder(out, identity) == Start()
    else:
        with pytest.raises(UserError, match=rf"{out}.*checkpoint|checkpoint.*{out}"):
            prepare_folder(out, identity)


def test_a_run_resumes_without_its_pointer(place: Path, own: list[str], out: Path) -> None:
    (out / "engine/last_checkpoint").write_text("")
    (out / "engine/iter_6.pth").write_bytes(b"")
    printed = run(*arguments(place, out, *own))
    assert "iter_6.pth" in printed
    assert f"{out / 'engine/iter_4.pth'} (iteration 4)\n" in printed
    assert steps(out) == [2, 4, 6]


def test_an_unfinished_run_is_given_up_only_when_asked(out: Path) -> None:
    identity, work = _identity(out), out / "engine"
    other = {**identity, "seed": 1, "settings": {**identity["settings"], "optim.lr": 0.04}}
    with pytest.raises(UserError, match=r"\(different: seed, settings\.optim\.lr\).*--restart"):
        prepare_folder(out, other)
    assert (work / "iter_6.pth").exists()
    assert prepare_folder(out, other, restart=True) == Start()
    assert not list(work.glob("iter_*"))
    assert _identity(out) == other
    assert prepare_folder(out, identity) == Start()  # without a checkpoint there is nothing to lose


def test_runs_under_former_keys_are_resumed_and_shown(out: Path, tmp_path: Path) -> None:
    identity, former = (
        _identity(out),
        {"crop.cat_max_ratio": "crop.most_of_one_class", "schedule.min_lr": "schedule.least_lr"},
    )
    settings = {former.get(key, key): value for key, value in identity["settings"].items()}
    assert settings.keys() != identity["settings"].keys()
    (out / "engine/identity.json").write_text(json.dumps(identity | {"settings": settings}))
    assert prepare_folder(out, identity).iteration == 6
    # A setting that was added since then had its default.
    before = {key: value for key, value in settings.items() if key != "network.map_norm"}
    (out / "engine/identity.json").write_text(json.dumps(identity | {"settings": before}))
    assert prepare_folder(out, identity).iteration == 6
    changed = identity | {"settings": identity["settings"] | {"network.map_norm": True}}
    with pytest.raises(UserError, match=r"network\.map_norm"):
        prepare_folder(out, changed)
    (out / "engine/identity.json").write_text(json.dumps(identity | {"settings": settings}))
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, last = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[last] = value
    (tmp_path / "result.json").write_text(json.dumps({"settings": nested}))
    assert finished_result(tmp_path, identity["settings"]) == {"settings": nested}
    nested["crop"]["most_of_one_class"] = 0.5
    (tmp_path / "result.json").write_text(json.dumps({"settings": nested}))
    with pytest.raises(UserError, match=r"result\.json.*\(different: crop\.cat_max_ratio\)"):
        finished_result(tmp_path, identity["settings"])


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "engine/mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    for restart in (False, True):
        with pytest.raises(UserError, match=str(mine.parent)):
            prepare_folder(tmp_path, {"protocol": "x"}, restart)
    assert mine.read_text() == "precious"
    mine.unlink()
    assert prepare_folder(tmp_path, {"protocol": "x"}) == Start()
    assert prepare_folder(tmp_path, {"protocol": "x"}) == Start()  # killed before its first checkpoint


@pytest.mark.slow
def test_killed_and_resumed(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = arguments(place, out, "schedule.iterations=60")
    running = Process(str(SCRIPT), *given)
    pointer, deadline = out / "engine" / "last_checkpoint", time.monotonic() + 120
    while not pointer.is_file() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert pointer.is_file()

    other = python(str(SCRIPT), *given, "--seed", "1")
    assert other.returncode == 2
    assert "(different: backbone, seed)" in other.stderr

    resumed = python(str(SCRIPT), *given)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{out / 'engine'}/iter_" in resumed.stdout
    assert steps(out) == list(range(2, 61, 2))
    first = next(line for line in resumed.stdout.splitlines() if line.startswith("iteration"))
    assert first.split()[1] != "2/60"
    assert not (out / "engine").exists()
