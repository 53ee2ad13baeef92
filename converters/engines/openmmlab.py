"""OpenMMLab's packages, imported so that they run no code from checkpoints and install nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import types
import warnings

from core.errors import UserError
from core.project import extra

SAFE = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_INDEX": "1"}
"""Environment under which torch loads nothing but tensors and plain values, whatever its caller asks for (mmengine
repeats a refused load without that protection), and under which a pip started from here finds nothing to install."""


def import_mmseg() -> None:
    """Makes `mmseg`, `mmengine` and `mmcv` importable, safely, with MMSegmentation's models and data sets registered.

    Raises `UserError` where they are not installed.
    """
    os.environ.update(SAFE)
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    absent = [name for name in ("mmengine", "mmcv", "mmseg") if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"semantic segmentation needs MMSegmentation ({', '.join(absent)} can't be imported); install it with "
            f"{extra('segmentation')}"
        )
    operators = "mmcv._ext"
    lite = False
    try:
        # Looking for it imports mmcv, hence OpenCV.
        lite = operators not in sys.modules and importlib.util.find_spec(operators) is None
        if lite:
            sys.modules[operators] = _WithoutOperators(operators)
        # Deprecations among their own modules, and remarks about packages that they could do without.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import mmseg.datasets
            import mmseg.models  # noqa: F401
            from mmengine.utils import package_utils
    except (ImportError, AssertionError) as error:  # mmseg asserts the versions of the other two
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"MMSegmentation can't be imported ({reason}); where it is libGL that is missing, install "
            f"opencv-python-headless in the place of opencv-python, else {extra('segmentation')}"
        ) from None
    else:
        package_utils.call_command = _refuse_command  # mmengine's one way to pip: its hub installs what a config needs
    finally:
        if lite:  # mmengine looks there for whether operators exist
            del sys.modules[operators]


def _refuse_command(command: list[str]) -> None:
    raise UserError(f"refusing to install packages during a run; run `{' '.join(command)}` yourself")


class _WithoutOperators(types.ModuleType):
    """Stands for mmcv's compiled operators, which the lite distribution lacks and no head of ours calls."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_arguments: object, **_options: object) -> None:
            raise RuntimeError(f"mmcv is installed without its compiled operator {name}")

        return absent
