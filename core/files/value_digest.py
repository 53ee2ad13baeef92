"""Digest of a value, equal for equal values."""

import hashlib
import json
from typing import Any


def value_digest(value: Any) -> str:
    """sha256 (hex) of a JSON value; the order of its keys doesn't matter. Raises `TypeError` for any other value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
