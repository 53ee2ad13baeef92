"""Options of a file found by name (a view transform, a loss): its `Config`, built from a recipe's plain values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError


def build_options(kind: str, name: str, config: type[Any], options: Mapping[str, Any]) -> Any:
    """`config` from plain values (lists stand for tuples, as in YAML); `kind` and `name` are for messages.

    Raises ValueError naming the option where a key is unknown, a type is wrong or a value is impossible.
    """
    known = [field.name for field in dataclasses.fields(config)]
    if unknown := [key for key in options if key not in known]:
        allowed = f"its options: {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{kind} {name} has no option {unknown[0]}; {allowed}")
    try:
        # Through JSON, strict means: no "3" for 3, but a list for a tuple.
        return TypeAdapter(config).validate_json(json.dumps(options), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join([name, *map(str, problem["loc"])])
        raise ValueError(f"{kind} option {key}: {problem['msg'].removeprefix('Value error, ')}") from None
