"""converters/engines/detectron2_install.py: installs completely or not at all, keeps an existing installation."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from converters.engines import detectron2_install
from converters.engines.detectron2_install import SHA256, download, main, unpack
from core.errors import UserError
from tests.torchrun import ROOT, fresh_python, python

TOP = "pb1-detectron2-0.6"
FILES = {"detectron2/__init__.py": "__version__ = '0.6'", "detectron2/data/a.py": "", "LICENSE": "free", "setup.py": ""}


def archive(path: Path, files: dict[str, str], change: Callable[[tarfile.TarInfo], object] = lambda _: None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            change(member)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_the_package_and_a_record_of_it_are_unpacked(tmp_path: Path) -> None:
    target = tmp_path / "site"
    target.mkdir()
    place = unpack(archive(tmp_path / "d2.tar.gz", {f"{TOP}/{name}": text for name, text in FILES.items()}), target)
    assert place == target / "detectron2"
    assert sorted(path.name for path in target.iterdir()) == ["detectron2", "detectron2-0.6.dist-info"]
    record = (target / "detectron2-0.6.dist-info" / "RECORD").read_text().split()
    assert [line.rstrip(",") for line in record if line.endswith(",,")] == [
        str(path.relative_to(target)) for path in sorted(place.rglob("*.py"))
    ] + [f"detectron2-0.6.dist-info/{name}" for name in ("METADATA", "INSTALLER", "LICENSE", "RECORD")]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{TOP}/detectron2/../../../../evil.py", lambda _: None),
        (f"{TOP}/detectron2/link", lambda m: (setattr(m, "type", tarfile.SYMTYPE), setattr(m, "linkname", "/etc"))),
        (f"{TOP}/detectron2/device", lambda m: setattr(m, "type", tarfile.CHRTYPE)),
    ],
)
def test_an_archive_that_reaches_outside_leaves_nothing(
    tmp_path: Path, name: str, change: Callable[[tarfile.TarInfo], object]
) -> None:
    target = tmp_path / "site" / "packages"
    target.mkdir(parents=True)
    with pytest.raises(UserError, match=r"d2\.tar\.gz"):
        unpack(archive(tmp_path / "d2.tar.gz", {name: ""}, change), target)
    assert [path.name for path in tmp_path.rglob("*")] == ["d2.tar.gz", "site", "packages"] or not any(target.iterdir())
    assert not list(tmp_path.rglob("evil.py"))


def whole(tmp_path: Path) -> Path:
    return archive(tmp_path / "d2.tar.gz", {f"{TOP}/{name}": text for name, text in FILES.items()})


def test_the_remains_of_a_package_are_named_and_left(tmp_path: Path) -> None:
    target = tmp_path / "site"
    (target / "detectron2").mkdir(parents=True)
    (target / "detectron2" / "own.txt").write_text("mine")
    with pytest.raises(UserError, match=r"site/detectron2\b.*remove"):
        unpack(whole(tmp_path), target)
    assert [str(path.relative_to(target)) for path in sorted(target.rglob("*"))] == ["detectron2", "detectron2/own.txt"]


@pytest.mark.parametrize("stopped_at", ["detectron2", "detectron2-0.6.dist-info"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_stopped_half_way_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: str, error: BaseException
) -> None:
    target = tmp_path / "site"
    target.mkdir()
    rename = detectron2_install.os.rename

    def stop(source: Path, destination: Path) -> None:
        if destination.name == stopped_at:
            raise error
        rename(source, destination)

    monkeypatch.setattr(detectron2_install.os, "rename", stop)
    with pytest.raises((UserError, KeyboardInterrupt)):
        unpack(whole(tmp_path), target)
    assert list(target.iterdir()) == []


def test_a_python_without_safe_filters_unpacks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "site"
    target.mkdir()
    monkeypatch.delattr(detectron2_install.tarfile, "data_filter", raising=False)  # before 3.11.4
    assert unpack(whole(tmp_path), target) == target / "detectron2"


def test_another_archive_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "site"
    target.mkdir()
    with pytest.raises(UserError, match=r"x\.tar\.gz.*detectron2"):
        unpack(archive(tmp_path / "x.tar.gz", {f"{TOP}/LICENSE": "free"}), target)
    assert not any(target.iterdir())


def test_pip_gets_the_hash_and_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        seen.extend(command)
        return SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution\n")

    monkeypatch.setattr(detectron2_install.subprocess, "run", run)
    with pytest.raises(UserError, match=r"pb1-detectron2==0\.6 \(No matching distribution\)"):
        download(tmp_path)
    assert {"--require-hashes", "--no-deps", "--no-build-isolation"} <= set(seen)
    assert not [word for word in seen if "://" in word or "index" in word]
    assert (tmp_path / "requirements.txt").read_text() == f"pb1-detectron2==0.6 --hash=sha256:{SHA256}\n"


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="needs Detectron2")
def test_an_installation_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py"])
    monkeypatch.setattr(detectron2_install, "download", lambda _: pytest.fail("nothing is to be fetched"))
    monkeypatch.setattr(detectron2_install.subprocess, "run", lambda command, **_: python(*command[1:]))
    main()
    printed = capsys.readouterr().out
    assert "Detectron2" in printed
    assert "Detectron2 0.6 with torch" in printed


def test_only_the_standard_library_is_needed() -> None:
    """-S hides what is installed, -I the environment; the mistake that follows is ours."""
    script = str(ROOT / "evaluate" / "install_detectron2.py")
    assert fresh_python("-S", "-I", script, "--help").returncode == 0
    done = subprocess.run([sys.executable, "-S", "-I", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: torch ")
    assert done.stderr.endswith("pip install -e '.[detection]'\n")
