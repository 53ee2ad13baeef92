"""Digest of a value: independent of the order of keys, and the one that existing caches and records hold."""

import pytest

from core.files.value_digest import value_digest


def test_order_of_keys_does_not_matter_and_order_of_lists_does() -> None:
    assert value_digest({"b": [1, 2], "a": None}) == value_digest({"a": None, "b": [1, 2]})
    assert value_digest([1, 2]) != value_digest([2, 1])


def test_value_is_that_of_sha256sum() -> None:
    # printf '%s' '{"a": [1, 2.5], "b": "\u00e9"}' | sha256sum
    assert value_digest({"b": "é", "a": [1, 2.5]}) == "47cf6e7b86034be9d1f8867945f36940d565eb32fa89b7ed71f0a633d7f1298c"


def test_value_outside_json() -> None:
    with pytest.raises(TypeError):
        value_digest({"a": object()})
