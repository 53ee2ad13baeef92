"""Installs Detectron2 into the environment without a compiler and without git.

An existing installation is used as it is. Otherwise the Python tree of version 0.6 is taken from one source
distribution, pinned by its sha256, through pip. This module needs only the standard library.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from converters.engines import detectron2_compat
from core.errors import UserError
from core.project import command, extra

PROJECT = "pb1-detectron2"
VERSION = "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


def main() -> None:
    """Installs Detectron2 where none is found, and tries the import in a fresh process."""
    parser = argparse.ArgumentParser(
        description="Put Detectron2 into this Python environment: the installed one if there is one, otherwise the "
        f"Python tree of version {VERSION}, pinned by its hash.",
        epilog=f"example: {extra('detection')} && {command('evaluate/install_detectron2.py')}",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's mistake too")
    parser.parse_args()
    place = installed()
    if place:
        print(f"Detectron2 {_version()} is installed in {place}: used as it is")
    else:
        target = Path(sysconfig.get_paths()["purelib"])
        print(f"Detectron2 is not installed: fetching {PROJECT}=={VERSION} with pip (0.5 MB, checked by its sha256)")
        with tempfile.TemporaryDirectory() as folder:
            place = unpack(download(Path(folder)), target)
        print(f"Detectron2 {VERSION} is now in {place} (to remove it: pip uninstall detectron2)")
    print(f"it works: {try_import()}")


def installed() -> Path | None:
    """Folder of the package that `import detectron2` finds; None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _version() -> str:
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return "of a version unknown to pip"


def download(folder: Path) -> Path:
    """The source distribution in `folder`; pip refuses any file of another hash.

    Raises `UserError` where pip can't get it.
    """
    for needed in ("torch", "setuptools", "pip"):
        if importlib.util.find_spec(needed) is None:
            raise UserError(f"{needed} must be installed before Detectron2; run {extra('detection')}")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PROJECT}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    download += ["--no-binary", PROJECT, "--no-build-isolation", "--require-hashes", "-r", str(requirements)]
    done = subprocess.run([*download, "-d", str(folder)], capture_output=True, text=True, check=False)
    files = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not files:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "no file came")
        raise UserError(
            f"pip can't fetch {PROJECT}=={VERSION} ({reason.removeprefix('ERROR: ')}); install Detectron2 yourself, "
            f"any build will be used, then run this again"
        )
    return files[0]


def unpack(archive: Path, target: Path) -> Path:
    """Puts the package detectron2 of the archive into `target`, whole or not at all, and a record of its files for pip.

    Raises `UserError` for an archive that is something else, and where `target` can't be written.
    """
    try:
        stage = Path(tempfile.mkdtemp(prefix=".detectron2-", dir=target))
    except OSError as error:
        raise UserError(f"can't write into {target} ({error.strerror}); use a virtual environment") from None
    try:
        with tarfile.open(archive) as tar:
            _extract(tar, stage)
        top = stage / f"{PROJECT}-{VERSION}"
        package, record = top / "detectron2", stage / f"detectron2-{VERSION}.dist-info"
        if not (package / "__init__.py").is_file():
            raise UserError(f"{archive.name} holds no package detectron2")
        _write_record(package, top / "LICENSE", record)
        _place(package, record, target)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"can't unpack {archive.name} into {target}: {error}; fix that and run this again") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return target / "detectron2"


def _place(package: Path, record: Path, target: Path) -> None:
    """Both into `target`, or neither: a record without its package would make pip take it for installed."""
    if (target / package.name).exists():
        raise UserError(
            f"{target / package.name} exists but is not a package that Python can import; remove it and run this again"
        )
    os.rename(package, target / package.name)
    try:
        shutil.rmtree(target / record.name, ignore_errors=True)
        os.rename(record, target / record.name)
    except BaseException:
        shutil.rmtree(target / package.name)
        raise


def _wanted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        _, _, inside = member.name.partition("/")
        if inside == "LICENSE" or inside.split("/")[0] == "detectron2":
            yield member


def _extract(tar: tarfile.TarFile, stage: Path) -> None:
    """Writes the wanted members below `stage`; no `extractall`, whose safe filter Python has from 3.11.4 on.

    Raises `TarError` for anything but plain files and folders with names below `stage`.
    """
    for member in _wanted(tar):
        parts = PurePosixPath(member.name).parts
        if PurePosixPath(member.name).is_absolute() or ".." in parts or not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is not a plain file or folder below the archive's top")
        place = stage.joinpath(*parts)
        if member.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None
        with content, place.open("xb") as file:
            shutil.copyfileobj(content, file)


def _write_record(package: Path, licence: Path, record: Path) -> None:
    """Writes the record by which pip lists and removes the package."""
    record.mkdir()
    files = [path.relative_to(package.parent) for path in sorted(package.rglob("*")) if path.is_file()]
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: detectron2\nVersion: {VERSION}\n", encoding="utf-8")
    (record / "INSTALLER").write_text("ssl-transfer\n", encoding="utf-8")
    shutil.copyfile(licence, record / "LICENSE")
    own = [f"{record.name}/{name}" for name in ("METADATA", "INSTALLER", "LICENSE", "RECORD")]
    (record / "RECORD").write_text("".join(f"{name},,\n" for name in [*map(str, files), *own]), encoding="utf-8")


def try_import() -> str:
    """Versions, after importing what a detector needs in a fresh process.

    Raises `UserError` where a library is missing or the import fails.
    """
    code = (
        "import detectron2, torch; from detectron2 import model_zoo; "
        "import detectron2.modeling, detectron2.data, detectron2.engine, detectron2.evaluation; "
        "print(f'Detectron2 {detectron2.__version__} with torch {torch.__version__}')"
    )
    detectron2_compat.install_hook()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"Detectron2 is installed but its import fails ({reason}); run {extra('detection')}, then this again"
        )
    return done.stdout.strip().splitlines()[-1]
