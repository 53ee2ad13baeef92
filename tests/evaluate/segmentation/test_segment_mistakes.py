"""What can go wrong in evaluate/segment.py: a user's mistakes, bad data, a partial backbone, a crafted checkpoint."""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from converters.open import open_backbone
from core.errors import UserError, run_entry_point
from evaluate.segment import main
from evaluate.segmentation.engine.run_state import Start, prepare_folder
from tests.evaluate.segmentation.tiny_segmentation import BACKBONE, arguments, own_ade20k, run, small_place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yield from small_place(tmp_path_factory)


def _refused(given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which the entry point ends."""
    monkeypatch.setattr(sys, "argv", ["segment.py", *given])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed.removeprefix("error: ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ckpt", "pixels"], "pixels"),
        (["network.backbone=resnet50"], "resnet50"),
        (["--data", "/nowhere"], "data.root=/nowhere"),
        (["data.layout=ade20k", "--data", "/nowhere"], "--data /path/to/ADEChallengeData2016"),
        (["data.classes=8"], "classes"),
        (["--seed", "-1"], "--seed"),
        (["--batch", "0"], "--batch"),
        (["--batch", "40"], "--batch 40"),
        (["network.frozen=true", "network.drop_path=0.1"], "drop_path"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    place: Path,
    tmp_path: Path,
    more: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in _refused(arguments(place, tmp_path / "out", *more), monkeypatch, capsys)


def test_a_diverged_run_stops_before_its_checkpoint(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"finite.*iteration 2\b[^\n]*$"):
        run(*arguments(place, tmp_path, "optim.lr=1e30", "schedule.warmup=0"))
    assert not list((tmp_path / "engine").glob("*.pth"))


def test_bad_files_met_in_training_are_one_sentence_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ade"
    given = arguments(place, tmp_path / "bad", *own_ade20k(place, root), "--workers", "1")
    image = root / "images/training/ADE_train_00000003.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:-100])  # its header is whole, so only a loader process finds out
    assert re.search(rf"1 of 12 .*0\.001: {image}: .*truncated", _refused(given, monkeypatch, capsys))
    image.write_bytes(whole)
    label = root / "annotations/training/ADE_train_00000003.png"
    PIL.Image.fromarray(np.full((32, 32), 77, np.uint8)).save(label)
    early = _refused(given, monkeypatch, capsys)
    assert re.search(rf"{label}.*label 77\b.*9 classes.*data\.classes", early)
    # Where the check at the start misses it, the loader process meets it.
    monkeypatch.setattr(
        "evaluate.segmentation.data.checks.spread", lambda total, _most: [0] if total == 12 else range(total)
    )
    assert _refused(given, monkeypatch, capsys) == early


def test_a_dry_run_reports_what_is_loaded_before_it_looks_at_the_data(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run(*arguments(place, tmp_path / "out", "--dry-run"))
    assert printed.index("126 of 126 tensors") < printed.index("majority")
    assert "fcn, 8 channels; batch norms plain" in printed
    linear = arguments(place, tmp_path / "out", "--dry-run", "head={kind: linear, auxiliary: 0.0}")
    assert "linear, one 1×1 convolution on all maps; batch norms plain" in run(*linear)
    assert "linear, one 1×1 convolution on all maps\n" in run(*linear, "--frozen")
    backbone = open_backbone(BACKBONE)
    del backbone.model.layer4[1].bn2  # type: ignore[union-attr, operator, index]
    monkeypatch.setattr("evaluate.segmentation.setup.open_named", lambda *_: backbone)
    monkeypatch.setattr("evaluate.segmentation.preflight.check_split", None)
    with pytest.raises(UserError, match="121 matched, 5 missing"):
        run(*arguments(place, tmp_path / "out", "--dry-run"))
    assert not (tmp_path / "out").exists()


class _Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize("pointer", ["iter_2.pth", ""])
def test_a_crafted_checkpoint_runs_no_code(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pointer: str
) -> None:
    out, mark = tmp_path / "out", tmp_path / "ran"
    work, given = out / "engine", arguments(place, out)
    work.mkdir(parents=True)

    def craft() -> None:
        torch.save({"state_dict": {}, "optimizer": {}, "meta": _Attack(mark)}, work / "iter_2.pth")
        (work / "last_checkpoint").write_text(pointer)

    craft()
    with pytest.raises(UserError, match=r"identity\.json"):
        run(*given)
    # Even where the rest of the run's folder is right.
    identities = []

    def handed_over(_out: Path, identity: dict[str, Any], *_: Any) -> Any:
        identities.append(identity)
        return Start(str(work / "iter_2.pth"))

    with monkeypatch.context() as patched:
        patched.setattr("evaluate.segmentation.preflight.prepare_folder", handed_over)
        with pytest.raises(pickle.UnpicklingError):  # the engine refuses it too
            run(*given)
    (work / "identity.json").write_text(json.dumps(identities[0]))
    message = r"iter_2\.pth.*tensors" if pointer else r"\(iter_2\.pth\)"
    with pytest.raises(UserError, match=message):
        prepare_folder(out, identities[0])
    assert not mark.exists()
    # The file is an attack: Python's own unpickler runs it.
    pickle.loads(pickle.dumps(_Attack(mark)))
    assert mark.exists()
