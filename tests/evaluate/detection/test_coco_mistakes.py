"""evaluate/coco.py answers every mistake in one line with exit code 2, and names the few that it tolerates."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from tests.evaluate.detection.tiny_detection import SCRIPT, arguments, make_place, result, run, stopped, write_scenes
from tests.torchrun import fresh_python, python


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("detection"))


def test_checkpoints_that_do_not_do(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(b"\x80\x04nonsense")
    cases = {
        str(broken): "broken.pkl",
        "timm:vit_tiny_patch16_224": "ResNets",
        "pixels": "error: pixels",
        str(tmp_path / "none"): f"{tmp_path / 'none'}",
    }
    for ckpt, message in cases.items():
        assert message in stopped(monkeypatch, capsys, *arguments(place, tmp_path / "out", ckpt=ckpt))
    given = arguments(place, tmp_path / "out", "--arch", "resnet50")
    assert "--arch" in stopped(monkeypatch, capsys, *given)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_do(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*more: str) -> str:
        return stopped(monkeypatch, capsys, *arguments(place, tmp_path / "out", *more))

    assert "needs a GPU" in printed("solver.amp=true")
    assert "--data coco:ROOT" in printed("--data", f"coco:{tmp_path}")
    assert "--draw" in printed("--draw", "-1")
    assert "--seed" in printed("--seed", str(2**63))
    assert "data.mask_format=bitmask" in printed("data.mask_format=polygon")


def test_broken_images_are_replaced_and_named_until_they_are_too_many(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_scenes(tmp_path / "scenes")
    victims = [root / "train2017" / "000000000003.png", root / "val2017" / "000000000014.png"]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:500])
    given = arguments(place, tmp_path / "out", "--data", f"coco:{root}", "data.broken_share=0.25")
    run(monkeypatch, *given)
    printed = capsys.readouterr().out
    assert f"{victims[0]}: " in printed
    assert f"{victims[1]}: " in printed
    document = result(tmp_path / "out")
    assert str(victims[0]) in document["data"]["train"]["broken"][0]
    assert str(victims[1]) in document["data"]["val"]["broken"][0]
    error = stopped(monkeypatch, capsys, *arguments(place, tmp_path / "strict", "--data", f"coco:{root}"))
    assert re.search(r"1 of 12 .*0\.001", error)


def test_broken_images_of_a_run_that_left_no_state_are_not_the_next_ones(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_training_images.txt").write_text("/elsewhere/another.jpg: cannot be decoded\n")
    run(monkeypatch, *arguments(place, tmp_path, "solver.iterations=2", "solver.steps=[]"))
    assert result(tmp_path)["data"]["train"]["broken"] == []


def test_a_loss_that_is_not_finite_stops_the_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(place, tmp_path, "solver.lr=1e18", "solver.warmup=0", "solver.iterations=30", "solver.steps=[]")
    assert "finite" in stopped(monkeypatch, capsys, *given)
    assert not (tmp_path / "result.json").exists()


def test_help_comes_quickly_and_without_torch() -> None:
    code = (
        f"import runpy, sys; sys.argv = ['coco.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        f"except SystemExit: print('torch' in sys.modules)"
    )
    shown = fresh_python("-c", code)
    assert shown.stdout.endswith("False\n")


def test_without_detectron2_the_way_to_install_it_is_reported(place: Path, tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.modules['detectron2'] = None\n"
        f"sys.argv = {['coco.py', *arguments(place, tmp_path)]!r}\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = python("-c", code)
    assert done.returncode == 2
    assert "python evaluate/install_detectron2.py" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_detectron2_is_answered_in_one_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("import numpy\nnumpy.no_such_name\n")
    code = (
        f"import runpy, sys; sys.argv = {['coco.py', *arguments(place, tmp_path / 'out')]!r}\n"
        f"sys.path.insert(1, {str(tmp_path)!r})\n"
        f"for name in [*sys.modules]: name.partition('.')[0] == 'detectron2' and sys.modules.pop(name)\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = python("-c", code)
    assert done.returncode == 2
    assert "(module 'numpy' has no attribute 'no_such_name')" in done.stderr
    assert len(done.stderr.splitlines()) == 1


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(annotations=[]), "no annotations"),
        (lambda d: d.update(images=[]), "no images"),
        (lambda d: d["categories"][0].update(name="unicorn"), "categories"),
        (lambda d: d["annotations"][0].update(category_id=99), "category 99"),
        (lambda d: d["images"][0].update(file_name="none.png"), "none.png"),
        (lambda d: d["annotations"][0].update(bbox=[64, 60, 20, 20]), "64×64"),
        (lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 9]), "area"),
        (lambda d: d["annotations"][0].update(bbox=[1, 1, 5]), "finite"),
        (lambda d: d["annotations"][0]["segmentation"].update(size=[64, 63]), "[64, 63]"),
        (lambda d: d["annotations"][0]["segmentation"].update(counts=[5]), "4096"),
    ],
)
def test_data_that_does_not_do_stops_before_the_training(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Change,
    message: str,
) -> None:
    root = write_scenes(tmp_path / "scenes")
    for file in (root / "annotations").glob("instances_val*.json"):
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
    error = stopped(monkeypatch, capsys, *arguments(place, tmp_path / "out", "--data", f"coco:{root}"))
    assert message in error
    assert not (tmp_path / "out").exists()
