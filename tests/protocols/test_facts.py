"""Every protocol equals its sources: the facts against the settings as resolved for the engines."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path

import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)
pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from core.config import read_yaml
from core.errors import UserError
from evaluate.common.protocol import FOLDER as PROTOCOLS
from evaluate.tables.facts import FOLDER, Fact, FactSheet, agree, read_facts
from evaluate.tables.published import read_published
from tests.protocols.resolved import resolve

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def test_every_protocol_that_is_not_scaled_down_has_facts() -> None:
    settings = {file.stem: read_yaml(file) for file in PROTOCOLS.glob("*.yaml")}
    large = {name for name, values in settings.items() if not values["scaled_down"]}
    assert large - set(NAMES) == set()
    assert set(NAMES) - settings.keys() == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_resolves_to_its_facts(name: str) -> None:
    sheet = read_facts(name)
    assert sheet.differences(resolve(name, sheet)) == []


MUTATIONS = [
    ("coco_maskrcnn_r50_fpn_1x_mulan", "solver.lr=0.01", {"SOLVER.BASE_LR", "schedule"}),
    ("coco_maskrcnn_r50_c4_1x", "detector.norm=SyncBN", {"MODEL.RESNETS.NORM"}),
    ("ade20k_linear_vit_b", "network.final_norm_on=last", {"model.backbone.type"}),
    ("ade20k_semfpn_vit_s_40k", "optim.decay_norms=false", {"decay.norms"}),
    ("voc_fcn_r50_20k_densecl", "crop.cat_max_ratio=1.0", {"train.RandomCrop.cat_max_ratio"}),
    ("linear_dino_r50", "augment.interpolation=bicubic", {"train.interpolation"}),
    ("linear_simsiam", "optim.adapt_bias=false", {"adapt_bias"}),
    ("linear_mocov3_r50", "schedule.granularity=step", {"schedule"}),
    ("knn_mulan", "features.transform.interpolation=bicubic", {"test.interpolation"}),
    ("finetune_vit", "optim.layer_decay=0.75", {"rate.block0", "rate.block11", "rate.first_layer"}),
    ("logreg_dinov2", "choice_share=null", {"choice_share"}),
    ("segment_linear_ade20k_dinov2", "heads.decay_from=warmup", {"schedule"}),
]


@pytest.mark.parametrize(("name", "override", "keys"), MUTATIONS, ids=[f"{m[0]}-{m[1]}" for m in MUTATIONS])
def test_a_mutated_value_contradicts_a_fact(name: str, override: str, keys: set[str]) -> None:
    sheet = read_facts(name)
    found = sheet.differences(resolve(name, sheet, [override]))
    assert {sentence.partition(" ")[0] for sentence in found} == keys


def test_published_rows_are_compared_only_where_nothing_departs() -> None:
    departing = {name for name in NAMES if read_facts(name).departs}
    compared = {number.protocol for number in read_published() if number.comparable}
    assert sorted(compared & departing) == []


SHEET = """
backbone: resnet50
sources: {code: "owner/name@0123abc: file.py"}
facts:
  - {key: rates, value: [0.1], source: code}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", source: code}", "}", "rates"),
        ("source: code}", "source: other}", "other"),
        ("owner/name@0123abc: file.py", "a paper", "sources.code"),
        ("owner/name@0123abc: file.py", "owner/name: file.py", "sources.code"),
        ("source: code}", "source: code, ours: [0.2]}", "rates.*why"),
        ("facts:\n", "facts:\n  - {key: rates, value: 1, source: code}\n", "rates.*twice"),
    ],
)
def test_a_fact_without_a_source_or_a_reason_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert SHEET.count(old) == 1
    (tmp_path / "sound.yaml").write_text(SHEET)
    assert read_facts("sound", tmp_path).facts == (Fact("rates", [0.1], "code"),)
    (tmp_path / "x.yaml").write_text(SHEET.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_facts("x", tmp_path)


def test_a_protocol_without_a_sheet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knn_none"):
        read_facts("knn_none", tmp_path)


def test_differences_name_the_key() -> None:
    departing = Fact("b", 2, "code", ours=3, why="so")
    sheet = FactSheet({"code": "our choice"}, (Fact("a", 1.0, "code"), departing, Fact("c", None, "code")), "resnet50")
    assert sheet.differences({"a": 1, "b": 3, "c": None}) == []
    assert [text.partition(" ")[0] for text in sheet.differences({"a": 1.1, "b": 2})] == ["a", "b", "c"]
    assert (departing.departs, sheet.departs) == (True, True)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [(1, 1.0, True), (1, True, False), (0.1, 0.100001, False), ((1, 2), [1, 2], True), ([1], [1, 2], False),
     ({"1": 0.5}, {"1": 0.5}, True), ({"1": 0.5}, {"2": 0.5}, False), ("a", "a", True), (None, 0, False)],
)  # fmt: skip
def test_equal_values(ours: object, theirs: object, same: bool) -> None:
    assert agree(ours, theirs) is same
