"""A protocol of the dense probes as it runs: its settings, the heads of its sweep, its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.config import load_config, to_dict
from evaluate.common.protocol import protocol_file
from evaluate.common.registry import find_description
from tests.protocols.parameters import flat


def resolve(name: str, kind: str, steps: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """All settings; `rates`: learning rate and weight decay of each head; `schedule`: share of the peak at `steps`."""
    config = load_config(find_description(kind).config_class(), protocol_file(name, kind), overrides)
    values = flat(to_dict(config))
    if hasattr(config, "heads"):
        values["rates"] = [[head["lr"], head["weight_decay"]] for head in config.heads.heads()]
        values["schedule"] = {str(step): config.heads.factor(step) for step in steps}
    return values
