"""core/files/atomic_folder.py: a folder is complete under its name whenever a process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.files import atomic_folder as module
from core.files.atomic_folder import atomic_folder, recover_folder


def in_killed_process(work: Callable[[], None]) -> None:
    """Runs `work`, which must end in os._exit(9), in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def replace(root: Path, content: str) -> None:
    with atomic_folder(root, lambda: False) as part:
        (part / "file").write_text(content)


@pytest.mark.parametrize("killed_at", [1, 2])
@pytest.mark.parametrize("exchange", [True, False])
def test_killed_at_any_rename_the_folder_is_complete_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, exchange: bool
) -> None:
    root = tmp_path / "set"
    replace(root, "old")
    calls = 0

    def work() -> None:
        nonlocal calls
        rename, swap = os.rename, module._exchange

        def dying(act: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*arguments: object) -> object:
                nonlocal calls
                calls += 1
                if not exchange and calls == killed_at:
                    os._exit(9)
                done = act(*arguments)
                if exchange:
                    os._exit(9)
                return done

            return wrapped

        monkeypatch.setattr(module, "_exchange", dying(swap) if exchange else lambda *_: False)
        monkeypatch.setattr(os, "rename", dying(rename))
        replace(root, "new")

    in_killed_process(work)
    monkeypatch.setattr(module, "_JUST_MADE", -1)
    recover_folder(root)
    assert (root / "file").read_text() == ("new" if exchange else "old")
    replace(root, "newest")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (root / "file").read_text() == "newest"


def test_a_living_process_between_its_renames_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    replace(root, "old")
    seen = []
    rename = os.rename

    def looking(source: Path, target: Path) -> None:
        rename(source, target)
        if str(target).endswith(".old"):
            recover_folder(root)  # as another process would
            seen.append(root.exists())

    monkeypatch.setattr(module, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", looking)
    replace(root, "new")
    assert seen == [False]
    assert (root / "file").read_text() == "new"
