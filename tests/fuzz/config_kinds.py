"""Damaged settings: files, overrides and architectures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from converters.architecture import parse_architecture
from core.config import from_dict, load_config, to_dict
from evaluate.common.protocol import list_protocols
from evaluate.common.registry import descriptions
from evaluate.studies.config import StudyConfig
from evaluate.suites.config import SuiteConfig
from pretrain.config import PretrainConfig
from tests.fuzz.mutations import NASTY, changed, damaged, near
from tests.fuzz.trial import Trial

ROOT = Path(__file__).resolve().parents[2]


def _config_files() -> list[tuple[type, Path]]:
    files = [(PretrainConfig, file) for file in sorted((ROOT / "configs/pretrain").glob("*.yaml"))]
    files += [(SuiteConfig, file) for file in sorted((ROOT / "configs/suites").glob("*.yaml"))]
    files += [(StudyConfig, file) for file in sorted((ROOT / "configs/studies").glob("*.yaml"))]
    for kind, description in descriptions().items():
        files += [(description.config_class(), file) for file in list_protocols(kind)]
    return files


def _comes_back(config: Any) -> None:
    """What was accepted is plain, and means the same when it is read again."""
    again = from_dict(type(config), to_dict(config))
    assert again == config, (again, config)


def config_files(folder: Path) -> Trial:
    """YAML files of all entry points, damaged as text and as documents."""
    files = [(kind, file.read_bytes()) for kind, file in _config_files()]

    def trial(rng: random.Random) -> None:
        kind, content = rng.choice(files)
        if rng.random() < 0.5:
            content = damaged(content, rng)
        else:
            document = changed(yaml.safe_load(content), rng)
            content = yaml.safe_dump(document).encode("utf-8", "surrogatepass")
        (folder / "a.yaml").write_bytes(content)
        _comes_back(load_config(kind, folder / "a.yaml"))

    return trial


def overrides(folder: Path) -> Trial:
    """key=value on the command line: known keys and damaged ones, with values of all sorts."""
    kinds = [(kind, file, dict(_leaves(to_dict(load_config(kind, file))))) for kind, file in _config_files()]

    def trial(rng: random.Random) -> None:
        kind, file, leaves = rng.choice(kinds)
        given = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            key = rng.choice(list(leaves))
            value = near(leaves[key], rng) if rng.random() < 0.6 else rng.choice(NASTY)
            if rng.random() < 0.1:
                key = damaged(key.encode(), rng).decode("utf-8", "surrogateescape")
            written = rng.choice((str, json.dumps, json.dumps, _as_yaml))(value)
            odd = rng.choice((key, f"{key}=", f"={written}", written))
            given.append(f"{key}={written}" if rng.random() < 0.9 else odd)
        _comes_back(load_config(kind, file, given))

    return trial


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def architectures(folder: Path) -> Trial:
    """`NAME(key=value, …)` after timm: and --arch."""
    texts = ("resnet18(channels=[16, 32, 64, 128], stem=small)", "vit_small_patch16_224(img_size=64, depth=2)",
             "resnet50(layers=[1,1,1,1])", "resnet18", "vit_tiny_patch16_224(num_heads=3)")  # fmt: skip

    def trial(rng: random.Random) -> None:
        text = rng.choice(texts)
        if rng.random() < 0.5:
            text = damaged(text.encode(), rng).decode("utf-8", "replace")
        else:
            text = text.rstrip(")") + ("," if "(" in text else "(") + f" depth={rng.choice(NASTY)!r})"
        parse_architecture(text)

    return trial
