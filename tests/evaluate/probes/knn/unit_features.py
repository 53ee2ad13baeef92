"""Features of unit length, made up, for the tests of search, vote and protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.features import Features


def unit_rows(count: int, width: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def features(values: NDArray[Any], labels: Any, classes: int, name: str = "set") -> Features:
    names = tuple(f"c{i}" for i in range(classes))
    return Features(values, np.asarray(labels, np.int64), np.arange(len(values)), name, names, ())
