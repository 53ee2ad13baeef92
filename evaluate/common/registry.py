"""Registry of evaluations: every `probe.py` below evaluate/ and in the folders of SSL_TRANSFER_PROBES is one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from core.errors import UserError, first_line
from core.files.user_path import user_path
from evaluate.common.description import Description

VARIABLE = "SSL_TRANSFER_PROBES"
"""Environment variable: folders, separated as in PATH, that hold NAME/probe.py and protocol files."""
_EVALUATE = Path(__file__).resolve().parent.parent


def extra_folders() -> list[Path]:
    """Folders that the environment adds to this project's own. Raises `UserError` for one that doesn't exist."""
    folders = [user_path(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    if missing := next((folder for folder in folders if not folder.is_dir()), None):
        raise UserError(f"{VARIABLE} names {missing}, which is not a folder; correct or unset the variable")
    return folders


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
            raise UserError(
                f"{module.__file__} has no PROBE, an instance of a subclass of Probe (evaluate/probes/base.py); add it"
            )
        if absent := next((name for name in ("kind", "metrics") if not hasattr(probe, name)), ""):
            raise UserError(f"{module.__file__}: PROBE has no {absent} (evaluate/common/description.py); add it")
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
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        del sys.modules[name]
        raise UserError(f"{file} can't be imported ({type(error).__name__}: {first_line(error)}); fix it") from error
    return module
