"""evaluate/segment.py --corrupt: results of their own beside the run's, with the trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from core.errors import UserError
from evaluate.probes.ood.corrupted import corrupted_file, corrupted_protocol, corruption_cells
from tests.evaluate.segmentation.tiny_segmentation import arguments, result, run, small_place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from small_place(tmp_path_factory)


def test_corrupted_results_of_a_run_and_of_a_finished_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run(*arguments(place, tmp_path / "run", "--corrupt", "gaussian_noise:5"))
    clean = result(tmp_path / "run")
    noisy = result(tmp_path / "run/corrupted/gaussian_noise-5")
    assert noisy["protocol"] == "tiny (modified: corrupt=gaussian_noise:5)"
    assert (noisy["kind"], noisy["settings"]["corrupt"]) == ("segmentation", "gaussian_noise:5")
    assert noisy["metrics"]["majority_mIoU"] == clean["metrics"]["majority_mIoU"]
    assert "gaussian_noise:5" in printed
    with monkeypatch.context() as patched:
        patched.setattr("core.data.corruptions.corrupt", lambda image, *_args, **_keys: image)
        assert "already finished" in run(*arguments(place, tmp_path / "run", "--corrupt", "fog:1"))
    same = result(tmp_path / "run/corrupted/fog-1")["metrics"]
    assert same["mIoU"] == pytest.approx(clean["metrics"]["mIoU"], abs=1e-9), "an unchanged image scores as before"
    assert json.loads((tmp_path / "run/result.json").read_text()) == clean


def test_the_engines_images_are_corrupted_in_their_own_order_of_channels() -> None:
    from evaluate.segmentation.engine.data_pipeline import CorruptImage

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = CorruptImage(("pixelate", 5)).transform({"img": pixels[..., ::-1].copy(), "img_path": "/data/a.jpg"})["img"]
    expected = corrupted_file(PIL.Image.fromarray(pixels), "elsewhere/a.jpg", ("pixelate", 5))
    assert (found[..., ::-1] == np.asarray(expected)).all()
    assert (found[..., ::-1] != pixels).any()


def test_names_of_corruptions() -> None:
    assert corruption_cells(["fog:2", "fog:2", "snow"]) == [("fog", 2), *(("snow", number) for number in range(1, 6))]
    assert corrupted_protocol("p (modified: batch=2)", ("fog", 2)) == "p (modified: batch=2, corrupt=fog:2)"
    with pytest.raises(UserError, match="frost"):
        corruption_cells(["frost:1"])
