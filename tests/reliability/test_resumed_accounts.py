"""What a resumed run remembers beside its weights: broken images, and which state is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from core.checkpoints import TRAINING_FORMAT, training_states
from core.errors import UserError
from evaluate.common.resumable import ProbeState
from tests.reliability.tiny_runs import ALONE, last_state, metrics, run_here, tiny


def test_broken_images_are_counted_over_resumes_and_named_once(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "data")
    bad = tmp_path / "data/cat/3.jpg"
    bad.write_bytes(b"no image")
    config = tiny(tmp_path / "data", "broken_share=0.1")
    out = tmp_path / "run"
    run_here(config, out)
    assert [line["broken_images"] for line in metrics(out)][1:] == [1] * 7
    assert last_state(out)["broken"] == [str(bad)]
    training_states(out / "checkpoints")[-1].unlink()
    run_here(config, out)
    assert [line["broken_images"] for line in metrics(out)][1:] == [1] * 7
    assert capsys.readouterr().err.count(str(bad)) == 1
    training_states(out / "checkpoints")[-1].unlink()
    with pytest.raises(UserError, match=r"1 of 12 .*0\.05"):
        run_here(tiny(tmp_path / "data", "broken_share=0.05"), out)


def test_every_kind_of_damage_names_the_state_and_the_way_on(image_folder: Path, tmp_path: Path) -> None:
    config = tiny(image_folder, "epochs=2")
    out = tmp_path / "run"
    run_here(config, out)
    older, newest = training_states(out / "checkpoints")
    whole = torch.load(newest, weights_only=True)
    parts: dict[str, object] = {
        "cut short": newest.read_bytes()[:1000],
        "another file": {"weights": torch.zeros(1)},
        "no config": {key: value for key, value in whole.items() if key != "config"},
        "no images": {**whole, "data": {}},
        "no weights": {**whole, "online": {}},
        "no step": {key: value for key, value in whole.items() if key != "step"},
        "format alone": {"format": TRAINING_FORMAT},
    }
    for what, content in parts.items():
        if isinstance(content, bytes):
            newest.write_bytes(content)
        else:
            torch.save(content, newest)
        with pytest.raises(UserError) as reported:
            run_here(config, out)
        assert str(reported.value).startswith(f"{newest} is damaged"), what
        assert "remove" in str(reported.value), what
    older.unlink()
    with pytest.raises(UserError, match=rf"{newest}.*damaged.*remove"):
        run_here(config, out)
    newest.unlink()
    run_here(config, out)


def test_a_damaged_state_of_a_probe_is_named_with_the_way_on(tmp_path: Path) -> None:
    unfinished = ProbeState(tmp_path / "unfinished.pt", "this one", ALONE)
    unfinished.save({"grid": torch.arange(1000.0)})
    assert unfinished.load() is not None
    content = (tmp_path / "unfinished.pt").read_bytes()
    (tmp_path / "unfinished.pt").write_bytes(content[:500])
    with pytest.raises(UserError, match=r"unfinished\.pt.*remove"):
        unfinished.load()


def test_the_time_of_checkpoints_does_not_count_as_training(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only a checkpoint moves, by an hour: the steps after it are not slow."""
    from pretrain import state
    from pretrain.monitoring import metrics as step_metrics

    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            cls.now += 0.001
            return cls.now

    save = state.save

    def slow(*given: object) -> None:
        save(*given)  # type: ignore[arg-type]
        Clock.now += 3600

    monkeypatch.setattr(step_metrics, "time", Clock)
    monkeypatch.setattr(state, "save", slow)
    run_here(tiny(image_folder), tmp_path)
    assert min(line["images_per_second"] for line in metrics(tmp_path)) > 100
