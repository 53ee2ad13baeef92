"""Kind and scale of results written before they stated them."""

from __future__ import annotations

from typing import Any

import pytest

from core.config import read_yaml
from evaluate.common.protocol import FOLDER
from evaluate.tables.older_results import kind_of, scaled_down

OLD_KINDS = ("knn", "linear", "logreg", "finetune", "transfer", "detection", "segmentation")
"""Kinds of which there are results from before they stated it."""
NEWER = {"scenes_linear_r18_150it"}
"""Protocols of these kinds whose results have always stated it."""
OLD = [f for f in sorted(FOLDER.glob("*.yaml")) if read_yaml(f)["kind"] in OLD_KINDS and f.stem not in NEWER]


@pytest.mark.parametrize("file", OLD, ids=lambda file: file.stem)
def test_old_results_of_our_protocols_are_what_the_protocols_state_today(file: Any) -> None:
    stated = read_yaml(file)
    for name in (file.stem, f"{file.stem} (modified: batch=2)"):
        assert kind_of({"protocol": name, "metrics": {}}) == stated["kind"]
        assert scaled_down({"protocol": name}) == stated["scaled_down"]


@pytest.mark.parametrize(
    ("metrics", "kind"),
    [
        ({"top1": 1.0, "k": 20}, "knn"),
        ({"top1": 1.0, "heads": []}, "linear"),
        ({"top1": 1.0, "fits": []}, "logreg"),
        ({"knn": 1.0, "linear": 1.0, "heads": []}, "transfer"),
        ({"box_ap": 1.0}, "detection"),
        ({"mIoU": 1.0}, "segmentation"),
    ],
)
def test_old_results_of_a_users_own_protocol_are_known_by_their_metrics(metrics: dict[str, Any], kind: str) -> None:
    assert kind_of({"protocol": "mine", "metrics": metrics}) == kind


def test_what_a_result_states_counts() -> None:
    document = {"protocol": "knn_scenes_64px", "kind": "depth", "scaled_down": False, "metrics": {}}
    assert (kind_of(document), scaled_down(document)) == ("depth", False)
    with pytest.raises(ValueError, match="mine"):
        kind_of({"protocol": "mine", "metrics": {"loss": 1.0}})


@pytest.mark.parametrize("name", ["ade20k_upernet_vit_tiny_160k", "linear_convnext_small", "knn_transfer_small_x"])
def test_names_of_architectures_are_not_scales(name: str) -> None:
    assert not scaled_down({"protocol": name})
