"""Large inputs in bounded memory: a quarter of what tests/reliability/load.py measures."""

from __future__ import annotations

import pytest

from tests.reliability.load import bank, coco, folder


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "most"), [("float32", 1.25), ("float16", 2.5)])
def test_a_bank_is_searched_where_it_lies(storage: str, most: float) -> None:
    measured = bank(250_000, storage)
    assert measured.peak < most * measured.size, measured


@pytest.mark.slow
def test_a_folder_of_many_files_starts_at_once() -> None:
    alone, whole = folder(100_000)
    assert alone.seconds < 3, alone
    assert alone.peak < 60, alone
    assert whole.seconds < 20, whole


@pytest.mark.slow
def test_annotations_are_not_held_twice() -> None:
    opened, parsed = coco(12_500)
    assert opened.peak < 1.3 * parsed.peak, (opened, parsed)
