"""Registry of evaluations: every `probe.py` below evaluate/ and in the folders of SSL_TRANSFER_PROBES is one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from core.errors import UserError
from evaluate.common.description import Description

VARIABLE = "SSL_TRANSFER_PROBES"
"""Environment variable: folders, separated as in PATH, that hold NAME/probe.py and protocol files."""
_EVALUATE = Path(__file__).resolve().parent.parent


def extra_folders() -> list[Path]:
    """Folders that the environment adds to this project's own."""
    return [Path(folder).expanduser() for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def descriptions() -> dict[str, Description]:
    """All evaluations by kind, in the order of the table. Raises `UserError` for two of one kind."""
    return dict(_discover(tuple(extra_folders())))


def find_description(kind: str) -> Description:
    """The evaluation of this kind. Raises `UserError` with the known kinds."""
    known = descriptions()
    if kind not in known:
        raise UserError(f"unknown kind {kind!r}; known: {', '.join(known)}")
    return known[kind]


@cache
def _discover(extra: tuple[Path, ...]) -> dict[str, Description]:
    modules = [
        importlib.import_module(".".join(("evaluate", *file.relative_to(_EVALUATE).with_suffix("").parts)))
        for file in sorted([*_EVALUATE.glob("*/probe.py"), *_EVALUATE.glob("*/*/probe.py")])
    ]
    modules += [_load(file) for folder in extra for file in sorted(folder.glob("*/probe.py"))]
    found: dict[str, Description] = {}
    for module in modules:
        probe = getattr(module, "PROBE", None)
        if not isinstance(probe, Description):
            raise UserError(f"{module.__file__} has no PROBE, an instance of a subclass of Description")
        if probe.kind in found:
            raise UserError(f"{module.__file__}: the kind {probe.kind!r} exists already; choose another name")
        found[probe.kind] = probe
    return dict(sorted(found.items(), key=lambda item: (item[1].position, item[0])))


def _load(file: Path) -> ModuleType:
    name = f"ssl_transfer_probes.{file.parent.name}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
