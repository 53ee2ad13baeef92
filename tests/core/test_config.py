"""core/config.py: precedence, strictness, and one clear sentence per mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from core.config import Setting, config_digest, from_dict, load_config, rename_keys, save_config, to_dict
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


@dataclass(frozen=True)
class Loose:
    text: str | None = None
    values: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "value"),
    # https://yaml.org/spec/1.2.2/#1032-tag-resolution
    [
        *[
            ("010", 10),
            ("0o10", 8),
            ("0x1F", 31),
            ("-07", -7),
            ("+3", 3),
            ("1e3", 1000.0),
            ("1.e-2", 0.01),
            (".5", 0.5),
        ],
        *[(text, text) for text in ("1:30", "1_000", "0b1", "yes", "no", "on", "off", "y", "2020-01-02", "=", "1:2:3")],
        *[("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("'010'", "010")],
    ],
)
def test_yaml_is_1_2_core_schema(tmp_path: Path, text: str, value: object) -> None:
    for config in (
        load_config(Loose, None, [f"values.x={text}"]),
        load_config(Loose, write(tmp_path / "c.yaml", f"values:\n  x: {text}\n")),
    ):
        assert config.values["x"] == value
        assert type(config.values["x"]) is type(value)
        save_config(config, tmp_path / "saved.yaml")
        assert load_config(Loose, tmp_path / "saved.yaml") == config


NAMES = [
    "a #2",
    "a: b",
    "2012",
    "010",
    "null",
    "[x]",
    "{a}",
    "yes",
    "'q'",
    '"',
    "!x",
    "&a",
    "*a",
    "%",
    "a\tb",
    "ü",
    "~",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_taken_literally_and_saved_so(tmp_path: Path, name: str) -> None:
    config = load_config(Loose, None, [Setting("text", name)])
    assert config.text == name
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Loose, tmp_path / "saved.yaml") == config


def test_an_override_is_not_cut_at_a_comment_sign() -> None:
    with pytest.raises(UserError, match=r"text .*#"):
        load_config(Loose, None, ["text=/data/birds #2"])
    assert load_config(Loose, None, ["text='/data/birds #2'"]).text == "/data/birds #2"
    assert load_config(Loose, None, ["text=a#2"]).text == "a#2"


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "[1, {a: .nan}]"])
def test_numbers_that_are_not_finite_are_refused_in_free_dictionaries(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"values\.x"):
        load_config(Loose, write(tmp_path / "c.yaml", f"values: {{x: {value}}}\n"))
    with pytest.raises(UserError, match=r"values\.x"):
        from_dict(Loose, {"values": {"x": float("nan")}})


@dataclass(frozen=True)
class Recipe:
    RENAMED: ClassVar[Mapping[str, str]] = {"rate": "lr"}
    lr: float = 0.1


@dataclass(frozen=True)
class Whole:
    RENAMED: ClassVar[Mapping[str, str]] = {"recipe": "optim"}
    optim: Recipe | None = None
    parts: tuple[Recipe, ...] = ()
    named: dict[str, Recipe] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("override", "old", "new"),
    [
        ("recipe.lr=1", "recipe", "optim"),
        ("optim.rate=1", "optim.rate", "optim.lr"),
        ("named.a.rate=1", "named.a.rate", "named.a.lr"),
    ],
)
def test_a_former_key_is_an_error_that_names_the_new_one(override: str, old: str, new: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(old)} on the command line .*\b{re.escape(new)}\b"):
        load_config(Whole, None, [override])


def test_stored_configs_are_read_under_todays_keys() -> None:
    stored = {"recipe": {"rate": 1.0}, "parts": [{"rate": 2.0}], "named": {"rate": {"rate": 3.0}}}
    read = from_dict(Whole, rename_keys(Whole, stored))
    assert read == Whole(Recipe(1.0), (Recipe(2.0),), {"rate": Recipe(3.0)})
    assert stored["recipe"] == {"rate": 1.0}, "the values given stay as they are"
    assert rename_keys(Whole, to_dict(read)) == to_dict(read)
