"""Logistic regression: torch against scikit-learn, and evaluate/logreg.py as users run it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.config import load_config, rename_keys
from core.errors import UserError, run_entry_point
from evaluate.common.protocol import full_name, protocol_file
from evaluate.logreg import main
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.logreg import protocol
from evaluate.probes.logreg.probe import PROBE
from evaluate.probes.logreg.protocol import LogregConfig, best_of, fit_one, split_for_choice
from evaluate.probes.logreg.solver import fit_sklearn, fit_torch
from tests.torchrun import ROOT, python, torchrun


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("c", [1e-4, 0.03, 1.0])
def test_torchs_coefficients_equal_scikit_learns(classes: int, c: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 600)
    features = rng.standard_normal((600, 20)) + 0.7 * rng.standard_normal((classes, 20))[labels]
    expected = fit_sklearn(features, labels, c, 1000, 1e-9)
    found = fit_torch(torch.from_numpy(features), torch.from_numpy(labels), classes, c, 1000, 1e-9)
    assert expected.converged
    assert found.converged
    assert np.abs(expected.weight).max() > 0.01
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.bias, expected.bias, rtol=1e-5, atol=1e-5)
    logits = found.logits(torch.from_numpy(features))
    assert logits.shape == (600, classes)
    from sklearn.linear_model import LogisticRegression

    reference = LogisticRegression(C=c, max_iter=1000, tol=1e-9).fit(features, labels)
    np.testing.assert_allclose(logits.softmax(1).numpy(), reference.predict_proba(features), atol=1e-5)


def test_standardise_was_a_switch_once(tmp_path: Path) -> None:
    for old, new in ((False, "none"), (True, "train")):
        assert rename_keys(LogregConfig, {"standardise": old}) == {"standardise": new}
        file = tmp_path / "old.yaml"
        file.write_text(f"standardise: {str(old).lower()}\n")
        with pytest.raises(UserError, match=rf"^standardise in .*old\.yaml: {str(old).lower()} .*\b{new}\b"):
            load_config(LogregConfig, file)


def test_a_fit_cut_short_says_so() -> None:
    rng = np.random.default_rng(0)
    labels, features = rng.integers(0, 3, 90), rng.standard_normal((90, 8))
    for fit in (
        fit_sklearn(features, labels, 1e5, 2, 1e-9),
        fit_torch(torch.from_numpy(features), torch.from_numpy(labels), 3, 1e5, 2, 1e-9),
    ):
        assert not fit.converged
        assert fit.iterations == 2


def test_dinov2s_values_of_c() -> None:
    config = load_config(LogregConfig, protocol_file("logreg_dinov2", "logreg"))
    cs = config.cs()
    assert len(cs) == 45
    assert (cs[0], cs[22], cs[44]) == pytest.approx((1e-6, 10**-0.5, 1e5))
    assert (config.max_iter, config.tol, config.choice_share) == (1000, 1e-12, 0.1)
    assert config.features.transform.resize == config.features.transform.crop == 224
    for file in ROOT.glob("configs/evaluate/logreg_*.yaml"):
        assert full_name(load_config(LogregConfig, file), file, PROBE.performance_keys) == file.stem
    assert best_of([{"C": 1, "top1": 5}, {"C": 2, "top1": 7}, {"C": 3, "top1": 7}])["C"] == 2


def test_c_is_chosen_on_a_part_of_the_training_images_and_all_are_fitted_with_it() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((60, 4)), np.arange(60) % 3
    values[:, 0] += labels
    rows = rng.permutation(60)
    everything = CachedFeatures(values, rows, labels[rows], np.arange(60), (), Path())
    fitted, held = split_for_choice(everything, 0.1)
    assert (len(fitted.rows), len(held.rows)) == (54, 6)
    assert sorted([*fitted.rows, *held.rows]) == list(range(60))
    for part in (fitted, held):
        assert np.array_equal(part.labels, labels[part.rows])
        assert np.array_equal(rows[part.positions], part.rows)
    assert np.array_equal(split_for_choice(everything, 0.1)[1].rows, held.rows)
    theirs = LogisticRegression(C=0.5, max_iter=500, tol=1e-10).fit(values[fitted.rows], labels[fitted.rows])
    expected = 100 * theirs.score(values[held.rows], labels[held.rows])
    for solver in ("sklearn", "torch"):
        config = LogregConfig(max_iter=500, tol=1e-10, solver=solver)
        found = fit_one(fitted, held, 3, config, 0.5, torch.device("cpu"))
        assert (found["C"], found["top1"]) == (0.5, pytest.approx(expected))
    with pytest.raises(ValueError, match="choice_share"):
        LogregConfig(choice_share=1.0)


@pytest.fixture
def given(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nfeatures: {transform: {resize: 36, crop: 32}}\ncount: 5\nlog10_c: [-2, 2]\n")
    backbone = "timm:resnet18(channels=[8,8,16,24], stem=small)"
    data = f"folder:{image_folder}"
    return ["--ckpt", backbone, "--config", str(path), "--data", data, "--workers", "0"]


def test_both_solvers_one_process_and_two_give_the_same(given: list[str], tmp_path: Path) -> None:
    runs = {
        "sklearn": python("evaluate/logreg.py", *given, "--out", str(tmp_path / "sklearn"), "solver=sklearn"),
        "torch": torchrun(ROOT / "evaluate/logreg.py", *given, "--out", str(tmp_path / "torch"), "solver=torch"),
    }
    found = {}
    for name, done in runs.items():
        assert done.returncode == 0, done.stderr
        assert f"C, 0.01 … 100, by {name};" in done.stdout
        found[name] = json.loads((tmp_path / name / "result.json").read_text())
        assert found[name]["protocol"] == "own"
    rows = [
        [{key: row[key] for key in ("C", "top1", "top5", "mean_per_class")} for row in result["metrics"]["fits"]]
        for result in found.values()
    ]
    assert rows[0] == rows[1]
    assert [row["C"] for row in rows[0]] == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_a_run_that_chooses_c_on_training_images(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["logreg.py", *given, "--out", str(tmp_path), "choice_share=0.2"])
    sizes, real = [], protocol.fit_sklearn

    def noted(features: np.ndarray, *arguments: object) -> object:
        sizes.append(len(features))
        return real(features, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "fit_sklearn", noted)
    main()
    assert "0.2 of the training images" in capsys.readouterr().out
    assert len(sizes) == 6
    assert sizes[-1] > sizes[0] == sizes[4]
    document = json.loads((tmp_path / "result.json").read_text())
    metrics = document["metrics"]
    assert metrics["C"] == best_of(metrics["fits"])["C"]
    assert document["data"]["train"]["images"] == sizes[-1]


def test_a_killed_run_resumes(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["logreg.py", *given, "--out", str(tmp_path / "out")])
    real, fitted = protocol.fit_sklearn, []

    def killed_at_the_fourth(*arguments: object) -> object:
        fitted.append(arguments[2])
        if len(fitted) == 4:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "fit_sklearn", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        main()
    main()
    assert "3 of 5 fits" in capsys.readouterr().out
    assert fitted == pytest.approx([0.01, 0.1, 1, 10, 10, 100])
    metrics = json.loads((tmp_path / "out/result.json").read_text())["metrics"]
    assert [row["C"] for row in metrics["fits"]] == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert not (tmp_path / "out/unfinished.pt").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["count=0"], "count"),
        (["log10_c=[2,1]"], "log10_c"),
        (["solver=svm"], "'auto', 'sklearn' or 'torch'"),
        (["train_limit=1"], "class"),
    ],
)
def test_mistakes(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["logreg.py", *given, "--out", str(tmp_path), *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
