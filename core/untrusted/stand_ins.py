"""Placeholder stand-ins for the bookkeeping objects that other projects store beside their weights."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Placeholder:
    """Takes any arguments and any state, keeps none of it and does nothing: whatever a file asks of it is harmless."""

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
    # OmegaConf nodes in Lightning checkpoints (solo-learn), and the types that they are annotated with.
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    *("omegaconf.nodes.AnyNode", "omegaconf.nodes.StringNode", "omegaconf.nodes.IntegerNode"),
    *("omegaconf.nodes.FloatNode", "omegaconf.nodes.BooleanNode"),
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
    "vissl.config.attr_dict.AttrDict",
)

SAFE_GLOBALS: tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...] = (
    # The real class: a bare bag of attributes, which a file can only fill.
    argparse.Namespace,
    *((Placeholder, name) for name in _INERT),
    # torch fills items of plain and ordered dictionaries only, and a state only of the ordered.
    *((OrderedDict, name) for name in _DICTIONARIES),
    (_empty_dict, "collections.defaultdict"),
)
"""For `torch.serialization.safe_globals`: what may stand in a foreign checkpoint beside tensors and plain values."""
