"""Installation as a wheel, and environments that differ from a developer's: notebooks, no home, foreign packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from core import project
from core.errors import UserError
from core.files import cache_folder as cache_module
from core.files.cache_folder import cache_folder
from core.project import ROOT, command, extra

FOLDERS = ("core", "converters", "evaluate", "pretrain", "configs", "ssl_transfer")
NOTEBOOK = "module://matplotlib_inline.backend_inline"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, beside another project's package `evaluate`."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site # 1, ü")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (site / "evaluate").mkdir()
    (site / "evaluate/__init__.py").write_text("OTHERS = True\n")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True, check=False)
    if "setuptools" in done.stderr and done.returncode:
        pytest.skip(f"no setuptools to build a wheel with: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return site


def run(site: Path, place: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The installed package in another folder, in an environment without HOME."""
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-P", *words], cwd=place, capture_output=True, text=True, check=False,
        env={**kept, "PYTHONPATH": str(site), "MPLBACKEND": NOTEBOOK, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip


def test_every_file_of_the_project_is_in_the_wheel(site: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (file for name in FOLDERS[:5] for file in (root / name).rglob("*"))
        return {
            str(file.relative_to(root)) for file in found if file.is_file() and file.suffix in (".py", ".yaml", ".html")
        }

    assert files(site / "ssl_transfer") == files(ROOT)
    others = {entry.name for entry in site.iterdir() if not entry.name.endswith(".dist-info")}
    assert others - {"bin", "__pycache__"} == {"ssl_transfer", "evaluate"}


def test_the_installed_command_finds_its_protocols_and_leaves_others_packages_alone(site: Path, tmp_path: Path) -> None:
    small = ["data.limit=8", "ks=[1]", "features.transform.resize=8", "features.transform.crop=8"]
    done = run(
        site, tmp_path, "-m", "ssl_transfer", "knn", "--ckpt", "pixels", "--workers", "0", "--draw", "2", "--seed", "3",
        *small, SSL_TRANSFER_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "knn_scenes_64px" in done.stdout
    assert len(list(tmp_path.rglob("map.png"))) == 1
    assert run(site, tmp_path, "-c", "import evaluate; print(evaluate.OTHERS)").stdout == "True\n"


def test_the_command_lists_the_scripts(site: Path, tmp_path: Path) -> None:
    listed = run(site, tmp_path, "-m", "ssl_transfer").stdout
    assert {"pretrain", "convert", "knn", "coco", "suite"} <= set(re.findall(r"^  (\w+)", listed, re.M))
    unknown = run(site, tmp_path, "-m", "ssl_transfer", "knm")
    assert unknown.returncode == 2
    assert "knm" in unknown.stderr


def test_commands_are_printed_as_they_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: sys.executable)
    monkeypatch.chdir(ROOT)
    assert command("evaluate/knn.py", "--ckpt", "runs/a b") == "python evaluate/knn.py --ckpt 'runs/a b'"
    assert extra("report") == "pip install -e '.[report]'"
    monkeypatch.chdir(tmp_path)
    assert command("evaluate/knn.py") == f"python {ROOT}/evaluate/knn.py"
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/python")
    assert command("pretrain/run.py") == f"{sys.executable} {ROOT}/pretrain/run.py"
    assert extra("report").startswith(f"{sys.executable} -m pip install ")
    monkeypatch.setattr(project, "INSTALLED", True)
    assert command("pretrain/run.py") == f"{sys.executable} -m ssl_transfer pretrain"
    assert command("converters/convert.py").endswith("-m ssl_transfer convert")


def test_the_cache_lies_where_it_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == ROOT / ".cache/ssl-transfer"
    checkout = tmp_path / "read-only"
    monkeypatch.setattr(cache_module, "ROOT", checkout)
    monkeypatch.setattr(cache_module, "_is_writable", lambda path: not path.is_relative_to(checkout))
    assert cache_folder() == tmp_path / "home/.cache/ssl-transfer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/ssl-transfer"


def test_without_a_home_the_cache_is_the_users_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"SSL_TRANSFER_CACHE": "", "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache_module.tempfile, "tempdir", None)
    monkeypatch.setattr(cache_module, "_is_writable", lambda _path: False)
    folder = cache_folder()
    assert folder == tmp_path / f"ssl-transfer-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="SSL_TRANSFER_CACHE"):
        cache_folder()


def test_tried_versions_of_python_are_those_of_the_metadata() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tried = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert sysconfig.get_python_version() in tried
    assert re.search(r'requires-python = ">=3\.11', text)
