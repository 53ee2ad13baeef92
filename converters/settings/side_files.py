"""Settings beside a weights file: `config.json` of timm, transformers or open_clip, and `preprocessor_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.settings.huggingface import NetworkFacts, open_clip_facts, transformers_facts
from core.backbones import BackboneConfig
from core.backbones.timm_models import NOT_OF_THE_MODEL
from core.errors import UserError
from core.untrusted.plain_values import check_size

_MAX_BYTES = 2**20

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class SideSettings:
    """Facts about a network that its weights do not show."""

    architecture: str | None = None
    """timm's name of the network."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of timm's model."""
    mean: Rgb | None = None
    """Per-channel mean (RGB, image values in 0 … 1)."""
    std: Rgb | None = None
    """Per-channel standard deviation."""
    where: str = ""
    """Name of the file that holds mean and std."""
    facts: NetworkFacts | None = None
    """Settings by transformers or open_clip."""

    @property
    def named(self) -> BackboneConfig | None:
        """timm's model that config.json names; None where it names none."""
        return None if self.architecture is None else BackboneConfig(self.architecture, dict(self.args))


def read_side_files(weights: Path) -> SideSettings:
    """Settings in the JSON files of the folder of `weights`; all None where there are none.

    Raises `UserError` for a file that cannot be read, and for statistics that are not three numbers.
    """
    config, images = _read(weights.with_name("config.json")), _read(weights.with_name("preprocessor_config.json"))
    settings = config.get("pretrained_cfg")
    settings = settings if isinstance(settings, dict) else config
    facts = transformers_facts(config, "config.json")
    if not config and (clip := _read(weights.with_name("open_clip_config.json"))):
        facts = open_clip_facts(clip, "open_clip_config.json")
        statistics = clip.get("preprocess_cfg")
        images = images or _open_clip_statistics(statistics if isinstance(statistics, dict) else {})
    name, args = config.get("architecture"), config.get("model_args")
    name, args = name if isinstance(name, str) else None, args if isinstance(args, dict) else {}
    args = {key: value for key, value in args.items() if key not in NOT_OF_THE_MODEL and not key.endswith("drop_rate")}
    for values, keys, file in (
        (settings, ("mean", "std"), "config.json"),
        (images, ("image_mean", "image_std"), "preprocessor_config.json"),
    ):
        if all(key in values for key in keys):
            mean, std = (_three(values[key], key, weights.with_name(file)) for key in keys)
            return SideSettings(name, args, mean, std, file, facts)
    return SideSettings(name, args, facts=facts)


def _open_clip_statistics(values: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's mean and std under the names of `preprocessor_config.json`."""
    return {f"image_{key}": values[key] for key in ("mean", "std") if key in values}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES:,} bytes, the limit for settings; move it elsewhere")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} beside the weights is not readable JSON ({error}); move it elsewhere") from None
    if not isinstance(values, dict):
        return {}
    check_size(values, str(path), _MAX_BYTES)
    return values


def _three(values: Any, key: str, path: Path) -> Rgb:
    numbers = values if isinstance(values, list) else []
    if len(numbers) != 3 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        raise UserError(f"{key} in {path} is {str(values)[:60]}, not three numbers; correct it or move the file")
    if key.endswith("std") and min(numbers) <= 0:
        raise UserError(f"{key} in {path} must be positive in every channel; correct it or move the file")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
