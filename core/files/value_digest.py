"""Digest of a JSON value, whatever the order of its keys."""

import hashlib
import json
from typing import Any


def value_digest(value: Any) -> str:
    """sha256 (hex) of the value's JSON text with sorted keys. Raises `TypeError` for what JSON can't hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
