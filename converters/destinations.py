"""Destinations: a backbone under another library's names, written as that library's own file."""

from __future__ import annotations

from pathlib import Path

from converters.adapters import adapter_for
from converters.key_table import KeyTable
from core.backbones import Backbone, check_weights
from core.errors import UserError


def write_for(backbone: Backbone, table: KeyTable, to: str, out: Path) -> KeyTable:
    """Writes the backbone to `out` under the names of `to`; `table` is the report of reading it.

    Returns the report from the file that was read to the file that was written. Raises `UserError` where the library
    has no such network, and where it has no place for one of the tensors.
    """
    check_weights(backbone, "convert")
    adapter = adapter_for(backbone, to)
    if adapter.suffixes and out.suffix not in adapter.suffixes:
        raise UserError(f"a file for {to} ends with {' or '.join(adapter.suffixes)}, {out} does not; change --out")
    return table.compose(adapter.write(backbone, out), adapter.left_out)


def is_folder(backbone: Backbone, to: str) -> bool:
    """True where a folder is written instead of a file."""
    return not adapter_for(backbone, to).suffixes


def usage(backbone: Backbone, to: str, out: Path) -> str:
    """Instructions for loading the file in the library, with the settings whose defaults would be wrong."""
    return adapter_for(backbone, to).usage(backbone, out)
