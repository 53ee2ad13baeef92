"""Compatibility of Detectron2 0.6 with today's libraries, applied through its own hook for custom environments.

Detectron2 imports the file that `$DETECTRON2_ENV_MODULE` names before any other part of it, and calls
`setup_environment()` there. Nothing is done where nothing is missing, so that a compiled Detectron2 stays itself.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from types import ModuleType
from typing import Any

ENV_VAR = "DETECTRON2_ENV_MODULE"


def install_hook() -> None:
    """Sets the hook, unless the user has set one. Call it before the first import of Detectron2."""
    os.environ.setdefault(ENV_VAR, __file__)


def check_detectron2() -> None:
    """Makes Detectron2 importable and its logging quiet; to be called before anything that imports it.

    Raises `UserError` with the way to install it where it is missing or broken.
    """
    from core.errors import UserError
    from core.project import command, extra

    install_hook()
    # Ours are the lines to read; its own say the same at length, and its age shows in warnings of torch.
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.meshgrid.*")
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # decoded masks, then copied
    try:
        import detectron2.engine
        import detectron2.evaluation
        import detectron2.modeling  # noqa: F401
    except (ImportError, AttributeError) as error:  # the latter: a build that today's NumPy, Pillow or torch break
        raise UserError(
            f"Detectron2 can't be imported ({error}); run {extra('detection')} and "
            f"{command('evaluate/install_detectron2.py')}"
        ) from None


def setup_environment() -> None:
    """Adds the names and modules that Detectron2 needs and the installed libraries lack."""
    import numpy as np
    import PIL.Image

    if importlib.util.find_spec("detectron2._C") is None:
        sys.modules["detectron2._C"] = _NoOperators("detectron2._C")
    # Pillow 10 dropped this other name of BILINEAR.
    if not hasattr(PIL.Image, "LINEAR"):
        PIL.Image.LINEAR = PIL.Image.Resampling.BILINEAR  # type: ignore[attr-defined]
    # NumPy 1.24 dropped its names for Python's own types; those that Detectron2's functions use when called.
    for kind in (int, float, str, bool):
        if kind.__name__ not in vars(np):
            setattr(np, kind.__name__, kind)
    if importlib.util.find_spec("pkg_resources") is None:
        stand_in = ModuleType("pkg_resources", "The one function of setuptools' former module that Detectron2 calls.")
        stand_in.resource_filename = _resource_filename  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in


class _NoOperators(ModuleType):
    """Stands for the compiled operators: importing it works, using an operator raises an error that names it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(
            f"Detectron2's compiled operator {name} is not installed: deformable convolutions and rotated boxes need "
            f"a Detectron2 built with its C++ sources"
        )


def _resource_filename(package: str, path: str) -> str:
    """Location of the file `path` of `package`, which is installed as plain files."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}")
    return os.path.join(spec.submodule_search_locations[0], *path.split("/"))
