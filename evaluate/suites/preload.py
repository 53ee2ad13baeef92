"""Modules that the runs of a suite have in common, imported once in the process that starts them.

Nothing here may compute: OpenMP's threads don't survive a fork.
"""

from __future__ import annotations

import importlib

import timm  # noqa: F401
import torch  # noqa: F401
import torchvision.transforms.functional  # noqa: F401

import evaluate.probes.features.cache
import evaluate.probes.measurement  # noqa: F401

for _optional in ("faiss", "scipy.optimize", "scipy.ndimage"):
    try:
        importlib.import_module(_optional)
    except ImportError:
        continue  # a run that needs it reports it
