"""The project's own folders, and its commands as the user can type them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds the front doors' packages and `configs`."""
CONFIGS = ROOT / "configs"
"""Protocols, recipes, suites and published numbers, as YAML."""
INSTALLED = ROOT.name == "ssl_transfer" and (ROOT / "command.py").is_file()
"""True where the project runs from a wheel (setup.py), False in a checkout."""


RESULT_FORMAT = "ssl-transfer/result/1"
"""Value of `format` in result.json."""


def command(script: str, *arguments: str) -> str:
    """Shell command that runs `script` (`evaluate/knn.py`) from the working directory in this Python."""
    python = _python()
    if INSTALLED:
        folder, _, file = script.partition("/")
        named = folder if folder == "pretrain" else file.removesuffix(".py")
        return shlex.join([*python, "-m", "ssl_transfer", named, *arguments])
    return shlex.join([*python, _short(ROOT / script), *arguments])


def extra(*names: str) -> str:
    """Command that installs optional dependencies (extras in pyproject.toml) for this Python."""
    wanted = f"[{','.join(names)}]"
    python = _python()
    pip = "pip" if python == ["python"] else shlex.join([*python, "-m", "pip"])
    what = f"'ssl-transfer{wanted}'" if INSTALLED else f"-e {shlex.quote(_short(ROOT) + wanted)}"
    return f"{pip} install {what}"


def _python() -> list[str]:
    """`python` where that is this interpreter, else its path; below the working directory as a relative one."""
    found = shutil.which("python")
    if found is not None and Path(found).absolute() == Path(sys.executable).absolute():
        return ["python"]
    return [_short(Path(sys.executable))]


def _short(path: Path) -> str:
    """`path` relative to the working directory if it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
