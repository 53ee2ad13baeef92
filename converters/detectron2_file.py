"""Detectron2's `.pkl` weights: written so that its checkpointer loads them all, read without unpickling freely."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError
from core.files.atomic_file import write_atomically
from core.untrusted.plain_values import to_plain


def write_detectron2(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors under Detectron2's names as a `.pkl` that any version of Python 3 and NumPy reads.

    `matching_heuristics` makes the checkpointer look for the names below `backbone.bottom_up.` too; without it
    Detectron2 loads nothing and says nothing.
    """
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    document = {"model": arrays, "__author__": "ssl-transfer", "matching_heuristics": True}

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            pickler = _Pickler(file, protocol=4)
            pickler.fast = True  # its memo would keep a copy of every array until the end
            pickler.dump(document)

    write_atomically(path, write)


def read_detectron2(path: Path) -> dict[str, Any]:
    """The dictionary in a `.pkl` of Detectron2, its arrays as tensors.

    Nothing that the file names is looked up: the few functions that an array's pickle calls are replaced by ours, every
    other name is refused. Raises `UserError` for such a file and for a damaged one.
    """
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"{path} is not a regular file; copy the weights to one")
        with path.open("rb") as file:
            document = to_plain(_Unpickler(file, encoding="latin1").load(), str(path), _tensor)
    except UserError:
        raise
    except _Refused as refused:
        raise UserError(
            f"{path} holds more than arrays and plain values ({refused}) and such files are not executed; save its "
            f"arrays alone"
        ) from None
    # A truncated or foreign file can trip the reader anywhere.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
            MemoryError, OverflowError, RecursionError, OSError, ImportError) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} is not a readable Detectron2 file ({reason})") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds a {type(document).__name__}, not Detectron2's dictionary of weights")
    return document


class _Pickler(pickle.Pickler):
    """Writes an array by its public constructor: NumPy's own way names a module that moved between versions 1 and 2."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


class _Refused(Exception):
    """A name in a pickle that belongs to no array."""


class _Part:
    """Something that a pickle may call, and that it can't change: a state for it is an error."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, _state: Any) -> None:
        raise _Refused("a state for a function")


class _Type:
    """Stands for a NumPy dtype: kind and size, then the byte order."""

    __slots__ = ("order", "spec")

    def __init__(self, spec: str, *_flags: Any) -> None:
        self.spec, self.order = spec, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return _numeric(self.order.replace("|", "").replace("=", "") + self.spec)


class _Array:
    """Stands for a NumPy array, whose contents come as its state."""

    __slots__ = ("value",)

    def __init__(self, *_arguments: Any) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.value = _array(content, kind.dtype(), shape, "F" if fortran else "C")


def _numeric(text: str) -> np.dtype[Any]:
    if not re.fullmatch(r"[<>|=]?[fiub]\d", text):
        raise _Refused(f"an array of {text}")
    return np.dtype(text)


def _array(content: bytes | bytearray | str, dtype: np.dtype[Any], shape: Any, order: Any = "C") -> NDArray[Any]:
    raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2 wrote text
    return np.frombuffer(raw, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


def _constructed(*arguments: Any) -> _Array:
    array = _Array()
    if arguments:
        shape, dtype, content = arguments
        array.value = _array(content, _numeric(dtype), shape)
    return array


def _from_buffer(content: Any, kind: _Type, shape: Any, order: str) -> _Array:
    array = _Array()
    array.value = _array(content, kind.dtype(), shape, order)
    return array


def _bytes(content: Any = b"", *_encoding: Any) -> bytearray:
    if isinstance(content, str):
        return bytearray(content.encode("latin1"))
    if not isinstance(content, bytes):  # a number would reserve that much memory
        raise _Refused("a bytearray that is not made of bytes")
    return bytearray(content)


def _scalar(kind: _Type, content: Any) -> Any:
    return _array(content, kind.dtype(), ()).item()


_PARTS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _constructed,
    "numpy.dtype": _Type,
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in (
            ("multiarray._reconstruct", _Array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
    "_codecs.encode": lambda text, *_encoding: str(text).encode("latin1"),
    # Protocols below 3 write Python 2's names.
    **{f"{builtins}.{name}": _bytes for builtins in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    "collections.OrderedDict": dict,
}


# The variant in Python: the other reserves memory for as many memorised objects as a number in the file says.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        make = _PARTS.get(f"{module}.{name}")
        if make is None:
            raise _Refused(f"{module}.{name}")
        return _Part(make)


def _tensor(value: Any) -> Any:
    """A tensor in the place of an array's stand-in."""
    if not isinstance(value, _Array):
        return value
    if value.value is None:
        raise ValueError("an array without contents")
    return torch.from_numpy(value.value)
