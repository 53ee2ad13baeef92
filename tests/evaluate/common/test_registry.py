"""The registry of evaluations: complete, without lists to edit, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from core.project import ROOT
from evaluate.common.description import Description
from evaluate.common.protocol import FOLDER, kind_of_file, kind_of_protocol, list_protocols, protocol_file
from evaluate.common.registry import VARIABLE, descriptions, find_description

OWN = ["knn", "linear", "logreg", "finetune", "transfer", "detection", "segmentation"]


def test_all_kinds_are_found_in_the_order_of_the_table() -> None:
    assert [kind for kind in descriptions() if kind in OWN] == OWN
    positions = [description.position for description in descriptions().values()]
    assert positions == sorted(positions)
    for kind, description in descriptions().items():
        assert description.kind == kind
        assert (ROOT / "evaluate" / description.command()[0]).is_file()
        config = description.config_class()()
        assert (config.kind, config.scaled_down) == (kind, False)
        assert kind_of_protocol(config.name) == kind


def test_every_protocol_states_its_kind() -> None:
    files = {file for kind in descriptions() for file in list_protocols(kind)}
    assert files == set(FOLDER.glob("*.yaml"))


def test_a_protocol_is_found_by_its_kind_not_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nkind: linear\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert protocol_file("mine", "linear") == tmp_path / "mine.yaml"
    assert kind_of_file(tmp_path / "mine.yaml") == "linear"
    with pytest.raises(UserError, match=r"'mine'.*\bknn\b.*knn_dino"):
        protocol_file("mine", "knn")
    assert kind_of_protocol("none (modified: batch=2)") == ""


PROBE = """from evaluate.common.description import Description


class Mine(Description):
    kind = {!r}
    metrics = ()
"""


def test_a_folder_of_the_users_adds_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/probe.py").write_text(PROBE.format("smell") + "\n\nPROBE = Mine()\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert isinstance(find_description("smell"), Description)
    assert find_description("smell").command() == ("probe.py", "smell")


@pytest.mark.parametrize(
    "text",
    [PROBE.format("knn") + "\n\nPROBE = Mine()\n", PROBE.format("x"), "PROBE = 3\n", "import no_such_thing\n", "def\n"],
)
def test_a_kind_given_twice_or_not_at_all_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/probe.py").write_text(text)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"mine/probe\.py"):
        descriptions()


def test_unknown_kinds_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'smell'.*\bknn\b"):
        find_description("smell")


def test_the_registry_loads_no_torch() -> None:
    code = (
        "import sys; from evaluate.common.registry import descriptions; descriptions(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_folder_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match=VARIABLE):
        descriptions()
