"""Modules that the runs of a suite have in common, imported once in the process that starts them.

Nothing here may compute: OpenMP's threads don't survive a fork.
"""

from __future__ import annotations

import gc
import importlib

import pydantic

_MODULES = (
    "torch", "timm", "torchvision.transforms.functional", "converters.open", "core.data.scenes.image_set",
    "evaluate.dense.maps", "evaluate.probes.main", "evaluate.probes.measurement",
)  # fmt: skip
_OPTIONAL = ("faiss", "scipy.optimize", "scipy.ndimage")

gc.disable()  # the imports make a million objects, none of which can be freed
for _name in _MODULES:
    importlib.import_module(_name)
for _name in _OPTIONAL:
    try:
        importlib.import_module(_name)
    except ImportError:
        continue  # a run that needs it reports it
importlib.import_module("core.backbones").families()  # imports a module for each
pydantic.TypeAdapter(int)  # looks for plugins
gc.freeze()  # no run needs to look through them again
gc.enable()
