"""evaluate/coco.py --corrupt: results of their own beside the run's, with the trained detector."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path

import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from tests.evaluate.detection.tiny_detection import arguments, make_place, result, run


def test_corrupted_results_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_place(tmp_path / "place")
    with monkeypatch.context() as patched:
        patched.setattr("core.data.corruptions.corrupt", lambda image, *_args, **_keys: image)
        run(monkeypatch, *arguments(place, tmp_path / "run", "--corrupt", "fog:1"))
    clean, same = result(tmp_path / "run"), result(tmp_path / "run/corrupted/fog-1")
    assert same["protocol"] == "tiny (modified: corrupt=fog:1)"
    assert same["metrics"] == clean["metrics"], "unchanged images score as before"
    assert same["settings"] == {**clean["settings"], "corrupt": "fog:1"}
    run(monkeypatch, *arguments(place, tmp_path / "run", "--corrupt", "contrast:5"))
    grey = result(tmp_path / "run/corrupted/contrast-5")
    assert (grey["kind"], grey["data"]["val"]["images"]) == ("detection", 5)
    assert result(tmp_path / "run")["metrics"] == clean["metrics"]
