"""The README's numbers are those of the records of studies demo_scenes and headline_fashion_mnist_small."""

from __future__ import annotations

from core.project import ROOT
from evaluate.studies.record import read_record

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
    assert all(record.mean_and_spread("pre-trained", *column)[2] == 3 for column in COLUMNS.values())
    differences = {name: record.difference("pre-trained", *column) for name, column in COLUMNS.items()}
    clear = [name for name, found in differences.items() if found is not None and found.clear]
    assert clear == ["k-NN", "linear", "mask AP", "mIoU"]
    assert "significant in all columns but box AP" in " ".join(text.split())


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
    shown = [f"{each.mean:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in (linear, knn)]
    assert f"by {shown[0]}, k-NN by {shown[1]}, neither significantly" in text
    assert f"true differences of {linear.detectable:.1f} and {knn.detectable:.1f} would show in four of five" in text


def test_the_sentence_on_scenes() -> None:
    record = read_record(ROOT / "records/headline_scenes_small-cpu.json")
    found = record.pooled_differences("segment_linear_scenes", "mIoU")
    gain, loss = found["shared predictor"], found["predictor per view"]
    assert gain.clear
    assert loss.clear
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    shown = [f"{each.mean:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in (gain, loss)]
    assert f"segmentation by {shown[0]}; a predictor for each view type then changes it by {shown[1]}" in text
    detection = read_record(ROOT / "records/detection_scenes_small-cpu.json")
    box = detection.difference("MoCo v3 · predictor per view", *COLUMNS["box AP"])
    assert box is not None
    assert box.clear
    assert f"box AP after MoCo v3 by {box.mean:+.1f} [{box.low:+.1f}, {box.high:+.1f}]" in text
