"""Resolves a suite entry: the protocol's full name for N processes, its data, and what it requires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluate.suites.config import Evaluation


@dataclass(frozen=True)
class Measurement:
    """An evaluation's protocol, resolved with its settings, data and number of processes."""

    protocol: str
    """The full name that results carry."""
    version: int
    """The protocol's version."""
    place: str
    """Place of the data."""
    seed_matters: bool
    """True if the result depends on the seed for fixed weights."""
    takes_pixels: bool
    """True if raw pixels can be measured by it."""


def measurement_of(evaluation: Evaluation, processes: int) -> Measurement:
    """The evaluation as so many processes run it. Raises `UserError` for settings that the protocol doesn't have."""
    from core.config import Setting, load_config, to_dict
    from core.data.open import split_sources
    from evaluate.common.protocol import flat, full_name, protocol_file

    description = evaluation.description
    file = protocol_file(evaluation.protocol, description.kind)
    value = list(split_sources(evaluation.data)) if description.many_sources else evaluation.data
    data = [Setting(description.data_key, value)] if evaluation.data else []
    overrides: list[str | Setting] = [*evaluation.settings, *data]
    config: Any = load_config(description.config_class(), file, overrides)
    # The name of a dense protocol includes its batch, which follows from the number of processes.
    config = description.for_processes(config, processes, evaluation.arguments)
    settings = to_dict(config)
    place = flat(settings)[description.data_key]
    return Measurement(
        full_name(config, file, description.performance_keys),
        config.protocol_version,
        ",".join(place) if description.many_sources else place,
        description.seed_matters(settings),
        description.takes_pixels(config),
    )
