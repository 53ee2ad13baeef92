"""Configuration: frozen dataclasses <- one YAML file <- `key=value` overrides; errors name the key and the file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from core.errors import UserError
from core.files.value_digest import value_digest
from core.untrusted.plain_values import check_size

_MOST = 2**20
"""Bytes of a YAML file, and characters and entries of what it means; the longest of ours has a few thousand."""

Config = TypeVar("Config")


@dataclass(frozen=True)
class Setting:
    """A value for a key as it is, without YAML's rules: for paths and names from the command line."""

    key: str
    """The dotted key, e.g. `data.source`."""
    value: Any
    """A plain value (JSON types only)."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core schema (`010` is 10; `1:30`, `yes`, dates are text); refuses repeated keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (typed by the base class)

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > 64:  # PyYAML would look a thousand brackets ahead from each
            raise yaml.scanner.ScannerError(None, None, "brackets are nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(TokenClass)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which YAML 1.2 would read as another type, e.g. `0o10` and `1e3`."""


_CORE_SCHEMA = (  # https://yaml.org/spec/1.2.2/#1032-tag-resolution
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _CORE_SCHEMA:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    def refused(reason: str) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)

    seen: set[str] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise refused("a key must be a plain word")
        if key_node.value == "<<":
            raise refused("merged keys (<<) are not read, write the keys out")
        if key_node.value in seen:
            raise refused(f"the key {key_node.value!r} is given twice")
        seen.add(key_node.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_config(kind: type[Config], file: Path | None = None, overrides: Sequence[str | Setting] = ()) -> Config:
    """Builds `kind` from its defaults, then the YAML `file`, then `overrides` such as `optim.lr=0.2`.

    The value of a `key=value` override is YAML, that of a `Setting` is taken as it is. Types are strict (no "3" for 3,
    no true for 1); whole numbers are taken where a float is wanted.
    Raises `UserError` with one sentence: the key, where it was given, and what is allowed there.
    """
    values = read_yaml(file) if file is not None else {}
    return _validate(kind, values, str(file or ""), [_apply_override(values, override) for override in overrides])


def read_yaml(file: Path) -> dict[str, Any]:
    """Mapping in `file`; raises `UserError` if the file is missing or not a YAML mapping."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST + 1)
        if len(content) > _MOST:
            raise UserError(f"{file} is longer than {_MOST:,} bytes, the limit for a config file; is it another file?")
        values = deepcopy(_parse(content.decode("utf-8")))
    except FileNotFoundError:
        near = sorted(str(other) for other in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise UserError(f"no config file {file}{'; there are: ' + ', '.join(near) if near else ''}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the config file {file}: {error}") from None
    except UserError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # impossible dates and numbers too
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{file} must hold `key: value` lines, not {type(values).__name__}")
    return values


@lru_cache(maxsize=256)  # tables and plans read the same few files many times, and PyYAML takes 10 ms for each
def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader: builds plain values only


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of the config (JSON types only), the form in which it is saved and hashed."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[Config], values: dict[str, Any], source: str = "") -> Config:
    """Inverse of `to_dict`, with the same checks as `load_config`; `source` names the file in messages."""
    return _validate(kind, values, source, [])


def save_config(config: Any, file: Path) -> None:
    """Writes the resolved config, so that `load_config(kind, file)` gives it back."""
    file.write_text(yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")


def config_digest(config: Any) -> str:
    """sha256 (hex) of the resolved config."""
    return value_digest(to_dict(config))


def _parse_override(override: str) -> Setting:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} must look like key=value, e.g. optim.lr=0.2")
    try:
        node = yaml.compose(text, _Loader)
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
        raise UserError(f"the value in override {override!r} is not valid YAML; quote it") from None
    if "#" in text and (node is None or "#" in text[node.end_mark.index :]):
        raise UserError(f"{key} on the command line: what follows # is a comment in YAML; quote it: {key}='\"…\"'")
    return Setting(key, value)


def _apply_override(values: dict[str, Any], override: str | Setting) -> str:
    setting = _parse_override(override) if isinstance(override, str) else override
    key, value = setting.key, setting.value
    given = override if isinstance(override, str) else f"{key}={value}"
    *path, last = key.split(".")
    node = values
    for part in path:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):
            raise UserError(f"override {given!r}: {part} is a single value and has no keys below it")
        node = below
    node[last] = value
    return key


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # pydantic hands the setting down to nested dataclasses, so only the outermost needs it.
    kind.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(kind)


def _validate(kind: Any, values: dict[str, Any], file: str, overridden: Sequence[str]) -> Any:
    check_size(values, file or "the command line", _MOST)
    try:
        text = json.dumps(values, default=str)
    except (ValueError, RecursionError, TypeError):
        raise UserError(f"{file or 'the command line'} is nested too deeply or has non-string keys") from None
    try:
        # Through JSON, strictness is about meaning (no "3" for 3) and lists stand for tuples, as in YAML.
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(_sentence(kind, error.errors()[0], file, overridden)) from None


def _sentence(kind: type, problem: Any, file: str, overridden: Sequence[str]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    from_command_line = bool(key) and any(
        key == given or key.startswith(given + ".") or given.startswith(key) for given in overridden
    )
    place = "on the command line" if from_command_line else f"in {file}" if file else "in the defaults"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        new = _renamed_at(kind, location[:-1]).get(location[-1])
        if new is not None:
            return f"{key} {place} is now called {'.'.join([*location[:-1], new])}; use the new name"
        allowed = _keys_at(kind, location[:-1])
        close = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown key {key} {place}; {hint}allowed here: {', '.join(allowed)}"
    known = _former_values(_kind_at(kind, location[:-1])).get(location[-1], {}) if location else {}
    if isinstance(problem["input"], str | bool) and problem["input"] in known:
        old = problem["input"] if isinstance(problem["input"], str) else str(problem["input"]).lower()
        return f"{key} {place}: {old} is now called {known[problem['input']]}; use the new name"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace("Input should be", "must be")
    if problem["type"] in ("tuple_type", "list_type") and isinstance(problem["input"], str | int | float):
        message = f"must be a list, e.g. {location[-1]}=[{problem['input']}]"
    given = "" if isinstance(problem["input"], dict) else f", not {json.dumps(problem['input'], default=str)[:200]}"
    return f"{key + ' ' if key else ''}{place}: {message}{given}"


def rename_keys(kind: Any, values: Any) -> Any:
    """Values of an older resolved config under today's keys: a copy of `values` with each class's `RENAMED` applied.

    A config class lists its former keys as `RENAMED: ClassVar[Mapping[str, str]] = {"old": "new"}` ("section.new" for
    a key that moved down), and former values as `RENAMED_VALUES: ClassVar = {"key": {"old value": "new value"}}`.
    Stored configs of finished runs are read through this function; in YAML files and on the command line an old key is
    an error that names the new one.
    """
    if isinstance(values, dict) and dataclasses.is_dataclass(kind):
        hints, renamed, former = typing.get_type_hints(kind), getattr(kind, "RENAMED", {}), _former_values(kind)
        named: dict[str, Any] = {}
        for key, value in values.items():
            *path, last = str(renamed.get(key, key)).split(".")
            below = named
            for part in path:
                below = below.setdefault(part, {})
            below[last] = former.get(last, {}).get(value, value) if isinstance(value, str | bool) else value
        return {key: rename_keys(_without_none(hints.get(key)), value) for key, value in named.items()}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(values, dict) and origin is dict:
        return {key: rename_keys(_without_none(arguments[1]), value) for key, value in values.items()}
    if isinstance(values, list) and origin is tuple:
        return [rename_keys(_without_none(arguments[0]), value) for value in values]
    return values


def _former_values(kind: Any) -> Mapping[str, Mapping[str | bool, str]]:
    return getattr(kind, "RENAMED_VALUES", {})


def _renamed_at(kind: Any, location: Sequence[str]) -> Mapping[str, str]:
    return getattr(_kind_at(kind, location), "RENAMED", {})


def _keys_at(kind: Any, location: Sequence[str]) -> list[str]:
    """Field names of the dataclass found by following `location` from `kind`, through dict values."""
    found = _kind_at(kind, location)
    return [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []


def _kind_at(kind: Any, location: Sequence[str]) -> Any:
    for part in location:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is dict:
            kind = arguments[1]
        elif origin is tuple:
            kind = arguments[0]
        elif dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind).get(part)
        kind = _without_none(kind)
    return kind


def _without_none(kind: Any) -> Any:
    """X of `X | None`; anything else unchanged."""
    options = typing.get_args(kind)
    return next(option for option in options if option is not type(None)) if type(None) in options else kind


def check_at_least_one(config: object, *keys: str) -> None:
    """`ValueError` naming the first of these settings that is below 1; None passes."""
    for key in keys:
        value = getattr(config, key)
        if value is not None and value < 1:
            raise ValueError(f"{key} must be at least 1, not {value}")
