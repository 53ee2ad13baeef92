"""Command `ssl-transfer`: runs the scripts of the project by name.

A wheel holds the project's folders (`core`, `evaluate`, `configs`, …) below this package, so that other packages of
these names (Hugging Face's `evaluate`) stay as they are. Each script puts the folder above them first on `sys.path`.
"""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "core").is_dir() else _HERE.parent
"""Folder of `core`, `evaluate`, …: this package's own where it was installed from a wheel, else the checkout."""


def scripts() -> dict[str, Path]:
    """Scripts by command: `pretrain`, `convert`, and those in evaluate/ by their names."""
    found = {"pretrain": ROOT / "pretrain" / "run.py", "convert": ROOT / "converters" / "convert.py"}
    evaluations = sorted((ROOT / "evaluate").glob("*.py"))
    return found | {file.stem: file for file in evaluations if file.stem != "__init__"}


def main() -> None:
    """Runs the script that the first argument names with the other arguments; exit code 2 for an unknown one."""
    known = scripts()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: ssl-transfer COMMAND [--help] …\n\ncommands:")
        print("\n".join(f"  {command:20} {_summary(file)}" for command, file in known.items()))
        return
    if name not in known:
        print(f"error: no command {name!r}; choose one of {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(known[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _summary(file: Path) -> str:
    """First sentence of a script's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"[.:] `|\. |\.$", text)[0]
