"""Placeholders for the bookkeeping objects that other projects store with their weights."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import sys
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Placeholder:
    """Accepts any arguments and any state, keeps none of it and does nothing, so no file can misuse it."""

    def __new__(cls, *_arguments: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def _empty_dict(*_arguments: Any) -> dict[Any, Any]:
    return {}


# The names below are looked up here instead of being imported, so no code of NumPy, Lightning, … runs: a NumPy scalar
# (best accuracy so far) becomes a `Placeholder`, and so does a crafted one. `getattr` and the builtin types are among
# them because loggers pickle references to methods and types; the file never gets the real function.
_INERT = (
    # NumPy scalars and arrays: epochs, metrics, mean and std in a config.
    *("numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    # Paths and versions among the arguments of a run.
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    "torch.torch_version.TorchVersion",
    # OpenMMLab's log buffers, and what they refer to.
    *("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr"),
    # Types that nodes of OmegaConf are annotated with.
    *(
        "typing.Any",
        "builtins.dict",
        "builtins.list",
        "builtins.str",
        "builtins.int",
        "builtins.float",
        "builtins.bool",
    ),
    # Keys of the `callbacks` of old Lightning checkpoints.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)
_DICTIONARIES = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)

SafeGlobal = Callable[..., Any] | tuple[Callable[..., Any], str]
"""For `torch.serialization.safe_globals`: a class, or a class and the name of what it takes the place of."""

SAFE_GLOBALS: tuple[SafeGlobal, ...] = (
    # The real class: a bare bag of attributes, which a file can only fill.
    argparse.Namespace,
    *((Placeholder, name) for name in _INERT),
    # torch fills items of plain and ordered dictionaries only, and a state only of the ordered.
    *((OrderedDict, name) for name in _DICTIONARIES),
    (_empty_dict, "collections.defaultdict"),
)
"""For `torch.serialization.safe_globals`: globals allowed in checkpoints of other projects."""

_OPTIMISER_KEY = re.compile(r"opt$|optim|sched", re.IGNORECASE)


class Unlisted(Placeholder):
    """A placeholder for a class or function that nobody listed; subclasses bear its name."""

    name = ""


def stand_ins(placeholders: Iterable[str], dictionaries: Iterable[str] = ()) -> tuple[SafeGlobal, ...]:
    """Placeholders for the classes and functions of these names, and dictionaries for the others."""
    return (*((Placeholder, name) for name in placeholders), *((OrderedDict, name) for name in dictionaries))


def unlisted_globals(path: Path) -> tuple[SafeGlobal, ...]:
    """A placeholder for every name in a checkpoint that torch does not accept in the current `safe_globals`.

    The names are listed without reading objects. Names of Python's own modules are left to be refused: no project
    defines them. A file in which nothing can be listed (of torch before 1.6, damaged) gives none.
    """
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (pickle.UnpicklingError, EOFError, ValueError, RuntimeError, OSError, KeyError, TypeError, IndexError,
            AssertionError, MemoryError, OverflowError, struct.error):  # fmt: skip
        return ()
    own = sys.stdlib_module_names | {name.partition(".")[0] for name in IMPORT_MAPPING}  # and Python 2's
    foreign = [name for name in names if name.partition(".")[0] not in own]
    return tuple((type("Unlisted", (Unlisted,), {"name": name}), name) for name in foreign)


def unlisted_outside_optimisers(document: Any) -> str | None:
    """Name of the first unlisted class or function that is not below a key of an optimiser or scheduler."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        kind = value if isinstance(value, type) else type(value)
        if issubclass(kind, Unlisted):
            return kind.name
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += [
                below
                for key, below in value.items()
                if not (isinstance(key, str) and _OPTIMISER_KEY.search(key) and isinstance(below, dict | list | tuple))
            ]
        elif isinstance(value, list | tuple):
            waiting += value
    return None
