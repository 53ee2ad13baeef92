"""What Detectron2 0.6 needs to run with today's libraries, applied through its own hook for custom environments.

Detectron2 imports the file that `$DETECTRON2_ENV_MODULE` names before any other part of it, and calls
`setup_environment()` there. Nothing is done where nothing is missing, so that a compiled Detectron2 stays itself.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

ENV_VAR = "DETECTRON2_ENV_MODULE"


def install_hook() -> None:
    """To be called before Detectron2's first import. A hook that the user has set stays."""
    os.environ.setdefault(ENV_VAR, __file__)


def setup_environment() -> None:
    """Puts in place what Detectron2 looks for and does not find."""
    import numpy as np
    import PIL.Image

    if importlib.util.find_spec("detectron2._C") is None:
        sys.modules["detectron2._C"] = _NoOperators("detectron2._C")
    # Pillow 10 dropped this other name of BILINEAR.
    if not hasattr(PIL.Image, "LINEAR"):
        PIL.Image.LINEAR = PIL.Image.Resampling.BILINEAR  # type: ignore[attr-defined]
    # NumPy 1.24 dropped its names for Python's own types.
    for kind in (int, float, str, bool, object):
        if kind.__name__ not in vars(np):
            setattr(np, kind.__name__, kind)
    if importlib.util.find_spec("pkg_resources") is None:
        stand_in = ModuleType("pkg_resources", "The one function of setuptools' former module that Detectron2 calls.")
        stand_in.resource_filename = _resource_filename  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in


class _NoOperators(ModuleType):
    """Stands for the compiled operators; the use of one says what is missing, the import alone does no harm."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(
            f"Detectron2's compiled operator {name} is not installed: deformable convolutions and rotated boxes need "
            f"a Detectron2 built with its C++ sources"
        )


def _resource_filename(package: str, path: str) -> str:
    """Where the file `path` of `package` lies; the package is installed as plain files."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}")
    return os.path.join(spec.submodule_search_locations[0], *path.split("/"))
