"""The README's numbers, and those of the demo in headers of configs, are those of the records of studies."""

from __future__ import annotations

import itertools

import pytest

from core.project import CONFIGS, ROOT
from evaluate.studies.record import read_record
from evaluate.studies.statistics import Difference

COLUMNS = {
    "k-NN": ("knn_scenes_64px", "top1"),
    "linear": ("linear_scenes_64px", "top1"),
    "box AP": ("scenes_maskrcnn_r18_fpn_frozen_150it", "box_ap"),
    "mask AP": ("scenes_maskrcnn_r18_fpn_frozen_150it", "mask_ap"),
    "mIoU": ("scenes_linear_r18_150it", "mIoU"),
}
ROWS = {"raw pixels": "pixels", "random init": "untrained", "pre-trained": "pre-trained"}


def test_the_demos_table() -> None:
    record = read_record(ROOT / "records/demo_scenes-cpu.json")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| backbone | k-NN |"))
    assert lines[head].strip("| ").split(" | ")[1:] == list(COLUMNS)
    shown = [line.strip("| ").split(" | ") for line in lines[head + 2 : head + 2 + len(ROWS)]]
    assert [row[0] for row in shown] == list(ROWS)
    for name, *cells in shown:
        for cell, (protocol, metric) in zip(cells, COLUMNS.values(), strict=True):
            mean, deviation, seeds = record.mean_and_spread(ROWS[name], protocol, metric)
            expected = "–" if not seeds else f"{mean:.1f}" if seeds == 1 else f"{mean:.1f} ± {deviation:.1f}"
            assert cell == expected, (name, protocol, metric)
    assert all(record.mean_and_spread("pre-trained", *column)[2] == 5 for column in COLUMNS.values()), "five seeds"
    differences = {name: record.difference("pre-trained", *column) for name, column in COLUMNS.items()}
    clear = [name for name, found in differences.items() if found is not None and found.clear]
    assert clear == list(COLUMNS)
    assert "With five seeds the gain over random init is significant in all columns." in " ".join(text.split())


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        ("pretrain/demo_scenes", ["k-NN"]),
        ("evaluate/knn_scenes_64px", ["k-NN"]),
        ("evaluate/scenes_maskrcnn_r18_fpn_frozen_150it", ["box AP", "mask AP"]),
        ("evaluate/scenes_linear_r18_150it", ["mIoU"]),
    ],
)
def test_headers_that_quote_the_demo(config: str, columns: list[str]) -> None:
    record = read_record(ROOT / "records/demo_scenes-cpu.json")
    lines = (CONFIGS / f"{config}.yaml").read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    for arm in ("untrained", "pre-trained"):
        values = [record.mean_and_spread(arm, *COLUMNS[column]) for column in columns]
        assert "/".join(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation, _ in values) in header
        assert {seeds for _, _, seeds in values} == {5}
    assert "5 seeds" in header


def test_the_sentence_on_predictors() -> None:
    record = read_record(ROOT / "records/headline_fashion_mnist_small-cpu.json")
    knn, linear = (
        record.pooled_differences(f"{kind}_fashion_mnist_32px", "top1")["predictor per view"]
        for kind in ("knn", "linear")
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert not knn.clear
    assert not linear.clear
    assert (knn.seeds, linear.seeds) == (3, 3), "three seeds of each"
    assert f"by {shown(linear)}, k-NN by {shown(knn)}, neither significantly" in text
    assert f"true differences of {linear.detectable:.1f} and {knn.detectable:.1f} would show in four of five" in text


def test_the_sentences_on_scenes() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    probe, engines = (read_record(ROOT / f"records/{name}_scenes_small-cpu.json") for name in ("headline", "detection"))
    probed = probe.pooled_differences("segment_linear_scenes", "mIoU")
    segmented = engines.pooled_differences(*COLUMNS["mIoU"])
    gains = [probed["shared predictor"], segmented["shared predictor"]]
    assert [each.clear for each in gains] == [True, True]
    assert "improve linear segmentation significantly" in text
    assert f"our probe by {shown(gains[0])} (study" in text
    assert f"MMSegmentation's head by {shown(gains[1])} (study" in text
    losses = [probed["predictor per view"], segmented["predictor per view"]]
    assert [each.clear for each in losses] == [True, False]
    assert f"costs some of it: {shown(losses[0])}, significantly, and {shown(losses[1])};" in text
    byol = probe.difference("BYOL · predictor per view", "segment_linear_scenes", "mIoU")
    assert byol is not None
    assert (byol.seeds, byol.clear) == (5, False)
    assert f"BYOL alone, with five seeds, shows {shown(byol)} in the probe, not significantly." in text
    box, level = COLUMNS["box AP"], "predictor per view"
    pooled, alone = engines.pooled_differences(*box)[level], engines.difference(f"MoCo v3 · {level}", *box)
    assert alone is not None
    assert f"Box AP changes by {shown(pooled)}, with MoCo v3 alone by {shown(alone)}, the only significant" in text
    clear = [arm for arm in engines.baselines if (found := engines.difference(arm, *box)) and found.clear]
    assert (pooled.clear, clear) == (False, [f"MoCo v3 · {level}"])


def shown(difference: Difference) -> str:
    return f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
