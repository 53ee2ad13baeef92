"""evaluate/studies: levels with more seeds or another baseline, courses of trainings, excess losses in the tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from evaluate.studies.config import StudyConfig
from evaluate.studies.courses import course_tables, excess
from evaluate.studies.findings import page, summary
from evaluate.studies.measurements import share_of
from evaluate.studies.record import Measured, Record, Trained, write_record
from evaluate.studies.statistics import paired_difference
from evaluate.studies.trainings import (
    mean_speed,
    predictor_losses,
    seconds_of,
    seen_by,
    stability_of,
    trainings_of,
)
from evaluate.suites.config import Evaluation
from evaluate.suites.plan import Run

EVALUATIONS = (Evaluation("knn", "knn_fashion_mnist_32px"),)
FACTORS: dict[str, dict[str, tuple[str, ...]]] = {
    "objective": {"BYOL": (), "SimSiam": ("objective={name: simsiam}",)},
    "views": {"two": (), "many": ("a=1",), "long": ("epochs=9",)},
}


def test_levels_choose_their_seeds_and_baselines(tmp_path: Path) -> None:
    study = StudyConfig(
        "q", "demo_fashion_mnist", FACTORS, EVALUATIONS, seeds=1, more_seeds={"BYOL": 2}, baselines={"long": "two"}
    )
    assert {arm.name: (arm.baseline, arm.seeds) for arm in study.arms} == {
        "BYOL · two": ("", 2), "BYOL · many": ("BYOL · two", 2), "BYOL · long": ("BYOL · two", 2),
        "SimSiam · two": ("", 1), "SimSiam · many": ("SimSiam · two", 1), "SimSiam · long": ("SimSiam · two", 1),
    }  # fmt: skip
    planned = [(each.seed, each.arm.name) for each in trainings_of(study, tmp_path, 5)]
    assert planned == [(0, arm.name) for arm in study.arms] + [(1, f"BYOL · {level}") for level in FACTORS["views"]]
    assert len(trainings_of(study, tmp_path, 1)) == 6


@pytest.mark.parametrize("of", [1, 2, 3, 20])
def test_shares_have_every_run_once_and_as_many_of_each_protocol(of: int) -> None:
    def run(number: int, protocol: str) -> Run:
        where = Path(f"{protocol}/{number % 6}")  # arms 0 and 6 have equal weights: one run
        return Run(EVALUATIONS[0], protocol, "", f"arm {number}", False, number // 2, "online", "", "", where)

    runs = [run(number, protocol) for number in range(7) for protocol in ("slow", "fast")]
    shares = [share_of(runs, number, of) for number in range(of)]
    assert sorted(str(each.folder) for share in shares for each in share) == sorted({str(each.folder) for each in runs})
    for protocol in ("slow", "fast"):
        counts = [sum(each.protocol == protocol for each in share) for share in shares]
        assert max(counts) - min(counts) <= 1
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all([each.seed for each in share] == sorted(each.seed for each in share) for share in shares)


@pytest.mark.parametrize(
    ("given", "key"), [({"more_seeds": {"other": 2}}, "more_seeds"), ({"baselines": {"long": "BYOL"}}, "baselines")]
)
def test_levels_that_do_not_exist_are_refused(given: dict[str, dict], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        StudyConfig("q", "demo_fashion_mnist", FACTORS, EVALUATIONS, **given)


def measured(arm: str, seed: int, **other: str) -> Measured:
    return dataclasses.replace(Measured(arm, seed, "p", 1, "knn", "d", {"top1": 1.0}, "b", "cpu", 1.0), **other)


@pytest.mark.parametrize(
    ("second", "key"),
    [
        (measured("b", 0, data="e"), "different data"), (measured("b", 0, device="NVIDIA H100"), "different devices"),
        (measured("a", 0), "two results of a, seed 0"), (measured("c", 0), "'c' is not an arm of the study"),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_together_makes_no_record(second: Measured, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Record("s", "q", "r", "0", (), {"a": "", "b": "a"}, "", {}, "", "", (), (measured("a", 0), second))


def test_a_difference_over_fewer_seeds_than_the_arm_names_them() -> None:
    rows = tuple(
        measured(arm, seed, metrics={"top1": top})
        for arm, tops in {"a": (1.0, 2.0), "b": (3.0, 4.0, 5.0)}.items()
        for seed, top in enumerate(tops)
    )
    record = Record("s", "q", "r", "0", (), {"a": "", "b": "a"}, "", {}, "", "", (), rows)
    assert "| b | 4.0 ± 1.0 (3) | **+2.0 [+2.0, +2.0]** (2) | 0.0 |" in summary(record)


def test_numbers_have_the_decimals_of_their_metric() -> None:
    rows = tuple(
        measured(arm, seed, kind="depth", metrics={"rmse": 0.25 + 0.0312 * step + 0.001 * seed})
        for step, arm in enumerate("ab") for seed in (0, 1)
    )  # fmt: skip
    text = summary(Record("s", "q", "r", "0", (), {"a": "", "b": "a"}, "", {}, "", "", (), rows))
    assert "| b | 0.282 ± 0.001 (2) |" in text
    assert "| **+0.031 [+0.031, +0.031]** | 0.000 |" in text


@pytest.mark.parametrize("name", ["untrained", "pixels"])
def test_no_arm_takes_the_name_of_a_reference(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        StudyConfig("q", "demo_fashion_mnist", {"network": {"other": (), name: ()}}, EVALUATIONS)


def test_the_course_of_a_run_is_read_from_its_log(tmp_path: Path) -> None:
    losses = [9.0] * 2 + [5.0, 4.0, 4.5, 3.0] + [2.0] * 14  # the first tenth, two steps, doesn't count
    lines = [
        {
            "step": n + 1,
            "loss": loss,
            "gradient_norm": 1.0 + 2 * (n == 7),
            "spread": 0.5,
            "images_per_second": 20.0 if n else 5.0,
        }
        for n, loss in enumerate(losses)
    ]
    lines.insert(5, {"step": 5, "epoch": 0.5, "predictor/local/trained": 0.5, "predictor/local/alone": 0.25})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text(
        "{batch: 10, views: {global: {count: 2, size: 4}, local: {count: 1, size: 2}}}"
    )
    assert seen_by(tmp_path) == (200, 200 * 36)
    assert seconds_of(tmp_path) == pytest.approx(10 / 5 + 190 / 20)
    assert mean_speed(tmp_path) == pytest.approx(200 / 11.5)
    assert stability_of(tmp_path) == pytest.approx({"loss_rise": 0.5 / 3, "gradient_peak": 3, "spread_least": 0.5})
    assert predictor_losses(tmp_path) == ({"epoch": 0.5, "local/trained": 0.5, "local/alone": 0.25},)
    peaks = [line | {"loss_max": line["loss"] + (n == 9), "gradient_norm_max": 4.0} for n, line in enumerate(lines)
             if "loss" in line]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in peaks))
    assert stability_of(tmp_path) == pytest.approx(
        {"loss_rise": 0.5 / 3, "loss_spike": 1 / 3, "gradient_peak": 4, "spread_least": 0.5}
    )


def trained(arm: str, seed: int, pixels: int, *losses: tuple[float, float, float]) -> Trained:
    lines = tuple(
        {"epoch": n, "local/trained": own, "local/alone": alone, "local/together": together}
        for n, (own, alone, together) in enumerate(losses)
    )
    return Trained(arm, seed, (), {}, 1.0, 10, pixels, {"loss_rise": 0.25}, lines)


def test_tables_show_excess_losses_and_compute() -> None:
    runs = (
        trained("shared", 0, 100, (0.9, 0.5, 0.6), (0.5, 0.3, 0.35)),
        trained("shared", 1, 100, (0.9, 0.5, 0.6), (0.6, 0.3, 0.35)),
        trained("own", 0, 150, (0.6, 0.5, 0.6), (0.35, 0.3, 0.35)),
        trained("own", 1, 150, (0.6, 0.5, 0.6), (0.45, 0.3, 0.35)),
    )
    assert excess(runs[0], "local") == pytest.approx([0.4, 0.2])
    record = Record("s", "q", "r", "0", (), {"shared": "", "own": "shared"}, "", {}, "", "", runs, ())
    text = course_tables(record)
    assert "| shared | local | 0.400 → 0.250 ± 0.071 (2) |  |  | 0.050 |" in text
    assert "| own | local | 0.100 → 0.100 ± 0.071 (2) | **-0.150 [-0.150, -0.150]** | 0.000 | 0.050 |" in text
    assert "| own | 10 | 1.50 × | 25% | – | – |" in text
    spiked = [dataclasses.replace(run, stability={"loss_rise": 0.25, "loss_spike": 0.5}) for run in runs]
    text = course_tables(dataclasses.replace(record, trained=tuple(spiked)))
    assert "| arm | images | pixels | loss rise | loss spike | gradient peak | least spread |" in text
    assert "| own | 10 | 1.50 × | 25% | 50% | – | – |" in text


def test_levels_that_several_arms_share_are_compared_over_all_of_them() -> None:
    two, many = ("BYOL · two", "SimSiam · two"), ("BYOL · many", "SimSiam · many")
    tops = {two[0]: {0: 50.0, 1: 52.0, 2: 50.0}, many[0]: {0: 51.0, 1: 55.0, 2: 70.0}, two[1]: {0: 40.0, 1: 41.0}}
    tops |= {many[1]: {0: 42.0, 1: 42.0}}
    measured = tuple(
        Measured(arm, seed, "p", 1, "knn", "d", {"top1": top}, "b", "cpu", 1.0)
        for arm, of_seeds in tops.items()
        for seed, top in of_seeds.items()
    )
    baselines = {two[0]: "", many[0]: two[0], two[1]: "", many[1]: two[1]}
    record = Record("s", "q", "r", "0", (), baselines, "", {}, "", "", (), measured)
    found = record.pooled_differences("p", "top1")
    assert found == {"many": paired_difference([46.5, 48.5], [45.0, 46.5])}, "arms of a seed count as one"
    assert "| *all arms with* many |  | +1.8 [+1.5, +2.0] (2) |" in summary(record), "without BYOL's third seed"
    assert "| BYOL · many | 58.7 ± 10.0 (3) | +8.0 [+1.4, +16.3] | 34.1 |" in summary(record)
    assert "| SimSiam · many | 42.0 ± 0.0 (2) | +1.5 [+1.0, +2.0] |" in summary(record)
    one_seed = dataclasses.replace(record, measured=tuple(each for each in measured if each.seed == 0))
    assert not one_seed.pooled_differences("p", "top1"), "one seed ranks nothing, however many arms it has"
    one_common = tuple(each for each in measured if (each.arm, each.seed) != (many[1], 1))
    fewer = dataclasses.replace(record, measured=one_common)
    assert "| SimSiam · many | 42.0 | +2.0 (one seed) | – |" in summary(fewer)
    assert not fewer.pooled_differences("p", "top1"), "one common seed"
    without = dataclasses.replace(record, measured=tuple(each for each in measured if each.arm != many[1]))
    assert not without.pooled_differences("p", "top1"), "an arm that isn't measured yet"
    alone = dataclasses.replace(record, baselines={two[0]: "", many[0]: two[0]}, measured=measured[:6])
    assert not alone.pooled_differences("p", "top1")


@pytest.mark.parametrize(
    ("speeds", "text"), [((11.9, 12.4), "at 12 images/s"), ((1234.0, 9.6), "at 10 to 1,234 images/s")]
)
def test_speeds_of_trainings_that_read_the_same_are_one_number(
    speeds: tuple[float, float], text: str, tmp_path: Path
) -> None:
    runs = tuple(Trained("a", seed, (), {}, speed) for seed, speed in enumerate(speeds))
    write_record(Record("s", "q", "r", "0", (), {"a": ""}, "", {}, "", "", runs, (measured("a", 0),)), tmp_path)
    assert f"2 trainings {text}, measured" in page(tmp_path)
