"""core/config.py: precedence, strictness, and one clear sentence per mistake."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from core.config import config_digest, from_dict, load_config, save_config, to_dict
from core.errors import UserError


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    steps: tuple[int, int] = (1, 2)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    named: dict[str, Inner] = field(default_factory=dict)
    count: int = 3
    clip: float | None = None


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_command_line_overrides_yaml_overrides_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "inner: {lr: 1e-3, steps: [5, 6]}\nnamed: {x: {kind: b}}\n")
    config = load_config(Outer, file, ["inner.lr=2e-3", "named.y.lr=7", "clip=null"])
    assert config == Outer(Inner(0.002, (5, 6)), {"x": Inner(kind="b"), "y": Inner(lr=7.0)}, 3, None)


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("inner: {lrr: 1}", [], r"inner\.lrr\b.*FILE.*\blr\b.*\blr, steps, kind"),
        ("", ["inner.lr=-1"], r"inner\b.*command line.*\blr\b.*-1\.0"),
        ("named: {x: {lr: 0}}", [], r"named\.x\b.*FILE.*\blr\b.*0\.0"),
        ("count: '3'", [], r'count\b.*FILE.*integer.*"3"'),
        ("count: true", [], r"count\b.*FILE.*integer.*true"),
        ("inner: {kind: c}", [], r"inner\.kind\b.*FILE.*'a' or 'b'.*\"c\""),
        ("inner: 3", ["inner.lr=1"], r"'inner\.lr=1'.*\binner\b"),
        ("", ["count"], r"'count'.*key=value"),
        ("count: 1\ncount: 2", [], "FILE.*YAML"),
        ("- 1", [], "FILE.*`key: value`.*list"),
        ("named: {x: {q: 1}}", [], r"named\.x\.q\b.*FILE"),
        ("a: !!python/object/apply:os.system [true]", [], "FILE.*YAML"),
    ],
)
def test_mistakes_give_one_sentence(tmp_path: Path, text: str, overrides: list[str], expected: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError) as caught:
        load_config(Outer, file, overrides)
    message = str(caught.value).replace(str(file), "FILE")
    assert re.search(expected, message)
    assert "\n" not in message


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "other.yaml", "")
    with pytest.raises(UserError, match=r"nothing\.yaml.*other\.yaml"):
        load_config(Outer, tmp_path / "nothing.yaml")


def test_saved_config_gives_the_same_config(tmp_path: Path) -> None:
    config = load_config(Outer, None, ["inner.steps=[3,4]", "named.z.kind=b"])
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Outer, tmp_path / "saved.yaml") == config
    assert from_dict(Outer, to_dict(config)) == config
    assert config_digest(config) == config_digest(from_dict(Outer, to_dict(config)))
    assert config_digest(config) != config_digest(Outer())
