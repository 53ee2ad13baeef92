"""Named protocols: the file behind a name, what a changed protocol is called, and where its result belongs."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from core.config import load_config, read_yaml, to_dict
from core.errors import UserError
from core.project import CONFIGS
from evaluate.common.registry import extra_folders

FOLDER = CONFIGS / "evaluate"
_LABELS = ("name", "kind", "scaled_down", "noise")


def protocol_file(name: str, kind: str) -> Path:
    """File of a protocol of this kind, NAME.yaml. Raises `UserError` with the names of the kind if there is none."""
    file = _file_of(name)
    if file is not None and kind_of_file(file) == kind:
        return file
    if file is not None and not kind_of_file(file):
        raise UserError(f"{file} states no kind; add the line kind: {kind}")
    known = [file.stem for file in list_protocols(kind)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    existing = f"{hint}available: {', '.join(known)} (or give a file to --config)"
    raise UserError(f"no protocol {name!r} of kind {kind}; {existing}")


def list_protocols(kind: str) -> list[Path]:
    """Files of all protocols of this kind, by name."""
    files = [file for folder in _folders() for file in folder.glob("*.yaml")]
    return sorted((file for file in files if kind_of_file(file) == kind), key=lambda file: file.stem)


def kind_of_protocol(name: str) -> str:
    """Kind of the protocol with this name, which may end in ` (modified: …)`; empty if no file has it."""
    file = _file_of(name.partition(" ")[0])
    return "" if file is None else kind_of_file(file)


@cache
def kind_of_file(file: Path) -> str:
    """The `kind` that a protocol file states; empty if none."""
    kind = read_yaml(file).get("kind")
    return kind if isinstance(kind, str) else ""


def _folders() -> list[Path]:
    return [FOLDER, *extra_folders()]


def _file_of(name: str) -> Path | None:
    """File of the protocol with this name, which may be any text of a result; None if no file has it."""
    if "/" in name:  # would lead out of the folder
        return None
    files = (folder / f"{name}.yaml" for folder in _folders())
    return next((file for file in files if os.path.isfile(file)), None)  # Path.is_file raises for a name too long


def current_version(name: str) -> int:
    """Version of the protocol with this name, which may end in ` (modified: …)`; 1 if no file has it."""
    file = _file_of(name.partition(" ")[0])
    return 1 if file is None else _version_of_file(file)


def noise_of(name: str) -> dict[str, Noise]:
    """Measured noise of the protocol by metric; empty if none was measured, as for every ` (modified: …)` one."""
    file = _file_of(name)
    return {} if file is None else _noise_of_file(file)


@cache
def _noise_of_file(file: Path) -> dict[str, Noise]:
    return {metric: Noise(**found) for metric, found in read_yaml(file).get("noise", {}).items()}


@cache
def _version_of_file(file: Path) -> int:
    version = read_yaml(file).get("protocol_version", 1)
    return version if isinstance(version, int) else 1


def check_version(version: int) -> None:
    """`ValueError` for a protocol version below 1."""
    if version < 1:
        raise ValueError(f"protocol_version must be at least 1, not {version}")


def check_name(name: str) -> None:
    """`ValueError` for a protocol name that can't be part of a file name."""
    if not re.fullmatch(r"(?!\.)[\w.-]{1,100}", name):
        raise ValueError(
            f"name must be 1 … 100 letters, digits, '_', '-' and '.', and must not start with '.', not {name!r}"
        )


@dataclass(frozen=True)
class Noise:
    """Standard deviations of a metric for one network whose weights stay (benchmarks/protocol_noise.py)."""

    seeds: float = 0.0
    """Over seeds of the evaluation; 0 where they decide nothing."""
    arithmetic: float = 0.0
    """Over one thread, two threads, AVX2 and plain kernels."""

    def __post_init__(self) -> None:
        if self.seeds < 0 or self.arithmetic < 0:
            raise ValueError("seeds and arithmetic are standard deviations and must not be negative")

    def of_difference(self, runs: int, others: int) -> float:
        """Standard deviation of the difference of two means over so many seeds, each measured on one machine."""
        return math.sqrt(self.seeds**2 * (1 / runs + 1 / others) + 2 * self.arithmetic**2)


def is_label(key: str) -> bool:
    """True for a setting, by its whole key, that names or describes a protocol and decides nothing."""
    return key.partition(".")[0] in _LABELS


@dataclass(frozen=True)
class ProtocolConfig:
    """Settings of every protocol; the config of a kind of evaluation adds its own, and defaults of the first two."""

    name: str = ""
    """The protocol's name, under which results are compared."""
    kind: str = ""
    """Kind of evaluation."""
    scaled_down: bool = False
    """True if it is made for small machines: no paper has numbers of it."""
    protocol_version: int = 1
    """Version of the protocol's meaning, raised when that changes; results of different versions are not comparable."""
    noise: dict[str, Noise] = field(default_factory=dict)
    """Spread of each metric for one network whose weights stay. Tables mark numbers that differ by less."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_version(self.protocol_version)


def full_name(config: Any, file: Path, neutral: Collection[str]) -> str:
    """The protocol's name; with ` (modified: key=value, …)` behind it where the config departs from the protocol.

    The protocol is what configs/evaluate holds under the config's name and kind, or else `file` itself. `neutral`:
    keys such as `features.batch` that change speed or memory but not what is measured. Another place of the user's own
    data (`folder:…`, `webdataset:…`, `hf:…`, `parquet:…`) is the same data; the result names it and holds its digest.
    """
    own = _file_of(config.name)
    if own is None or kind_of_file(own) != config.kind:  # another kind's protocol may have the name of the user's own
        own = file
    reference = flat(to_dict(load_config(type(config), own)))
    changes = []
    for key, value in flat(to_dict(config)).items():
        if key in neutral or is_label(key) or value == reference.get(key):
            continue
        if key == "data.source" and _kind(value) == _kind(reference[key]):
            continue
        changes.append(f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}")
    return config.name + (f" (modified: {', '.join(changes)})" if changes else "")


def result_folder(
    protocol: str, backbone_sha256: str, seed: int, root: Path = Path("results"), version: int = 1
) -> Path:
    """ROOT/PROTOCOL/DIGEST-seedN; a modified protocol and each version from 2 on have a folder of their own."""
    name, modified, _ = protocol.partition(" (modified")
    name += f"-v{version}" if version > 1 else ""
    if modified:
        name += f"-modified-{hashlib.sha256(protocol.encode()).hexdigest()[:8]}"
    return root / name / f"{backbone_sha256[:12]}-seed{seed}"


def conflicting_result(
    path: Path, protocol: str, backbone_sha256: str, seed: int, data_digests: list[str], version: int = 1
) -> str:
    """Error message if `path` holds the result of another measurement; empty if it may be written.

    A result of the same protocol (in the same version), backbone, seed and data may be replaced.
    """
    if not path.exists():
        return ""
    mine = (protocol, backbone_sha256, seed, sorted(data_digests), version)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        theirs = (
            there["protocol"],
            there["checkpoint"]["backbone_sha256"],
            there["seed"],
            sorted(part["digest"] for part in there["data"].values()),
            there.get("protocol_version", 1),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{path} exists and is not a result of this project; choose another folder with --out"
    names = ("protocol", "backbone", "seed", "data", "protocol_version")
    different = [name for name, a, b in zip(names, mine, theirs, strict=True) if a != b]
    if not different:
        return ""
    return (
        f"{path} holds another result ({theirs[0]}, backbone {theirs[1][:12]}, seed {theirs[2]}; "
        f"different here: {', '.join(different)}); choose another folder with --out"
    )


def _kind(source: str) -> str:
    from core.data.open import USERS_COPY

    kind = source.partition(":")[0]
    return "user's copy" if kind in USERS_COPY else kind


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their whole keys: `{"optim": {"lr": 1}}` -> `{"optim.lr": 1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
