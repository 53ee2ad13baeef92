"""Defaults without --protocol: a protocol that suits the data, and of a run folder its data and image size."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import Setting, load_config, read_yaml, to_dict
from core.errors import UserError
from core.files.user_path import user_path
from evaluate.common.protocol import flat, protocol_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluate.probes.base import Probe


@dataclass(frozen=True)
class RunData:
    """Data of a pre-training run, from its config."""

    source: str
    """As in `data.source`."""
    scenes: Mapping[str, Any]
    """Settings of the built-in scenes."""
    size: int | None
    """Side of the global views in pixels; None if the recipe has none."""


def choose_protocol(probe: Probe, arguments: argparse.Namespace) -> tuple[Path, list[str | Setting]]:
    """Protocol file and overrides of a command line.

    A named protocol counts. Otherwise the data decides: that of the command line, or of the run that --ckpt names (in
    the size of its global views), or the built-in scenes.
    """
    given: list[str | Setting] = list(arguments.overrides)
    if arguments.config is not None:
        return arguments.config, given
    if arguments.protocol is not None:
        return protocol_file(arguments.protocol, probe.kind), given
    source = _source(given, probe.data_key)
    run = find_run_data(arguments.ckpt) if source is None and probe.run_data else None
    kind = (source or (run.source if run is not None else "scenes")).partition(":")[0]
    file = protocol_file(probe.protocols.get(kind, probe.protocols[""]), probe.kind)
    return file, ([*_settings_of(run, probe, file), *given] if run is not None else given)


def find_run_data(ckpt: str) -> RunData | None:
    """Data of the run whose folder, export or checkpoint `ckpt` names, untrained (`random:`) or not; None if none."""
    path = user_path(ckpt.removeprefix("random:"))
    try:
        if not path.exists():  # timm:NAME, pixels: no file, so the working directory is not their run
            return None
        folders = (path,) if path.is_dir() else path.parents[:2]
        config = next((file for folder in folders if (file := folder / "config.yaml").is_file()), None)
        values = {} if config is None else read_yaml(config)
    except (OSError, UserError):  # not a path, or not a run's
        return None
    data, views = values.get("data"), values.get("views")
    if not isinstance(data, dict) or not isinstance(views, dict) or not isinstance(data.get("source"), str):
        return None
    size = views["global"].get("size") if isinstance(views.get("global"), dict) else None
    scenes = data.get("scenes")
    return RunData(data["source"], scenes if isinstance(scenes, dict) else {}, size if isinstance(size, int) else None)


def _source(overrides: Sequence[str | Setting], key: str) -> str | None:
    """The data that the command line names; of several sets the first; None if none."""
    found: str | None = None
    for override in overrides:
        name, value = (override.key, override.value) if isinstance(override, Setting) else _split(override)
        if name == key:
            found = str(value[0] if isinstance(value, list) and value else value).strip("[]'\"")
    return found


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def _settings_of(run: RunData, probe: Probe, file: Path) -> list[Setting]:
    """Settings in which the run departs from the protocol."""
    settings = flat(to_dict(load_config(probe.config_class(), file)))
    kind = run.source.partition(":")[0]
    wanted: dict[str, Any] = {} if kind in _sources(settings[probe.data_key]) and ":" not in run.source else {
        probe.data_key: [run.source] if probe.many_sources else run.source
    }  # fmt: skip
    if kind == "scenes":
        wanted |= {f"data.scenes.{key}": value for key, value in run.scenes.items()}
    crop = settings.get("features.transform.crop")
    if run.size is not None and crop is not None and run.size != crop:
        resize = round(run.size * settings["features.transform.resize"] / crop)
        wanted |= {"features.transform.crop": run.size, "features.transform.resize": resize}
    return [Setting(key, value) for key, value in wanted.items() if key in settings and value != settings[key]]


def _sources(value: Any) -> list[str]:
    return [str(source) for source in (value if isinstance(value, list) else [value])]
