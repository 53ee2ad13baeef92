"""Fashion-MNIST: 70,000 grey 28 × 28 pictures of clothes in ten classes (Xiao et al. 2017, arXiv 1708.07747)."""

from __future__ import annotations

import gzip
import hashlib
import math
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.errors import UserError
from core.files.atomic_folder import atomic_folder
from core.files.cache_folder import cache_folder

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")
DATA_ROOTS = (Path(), Path("FashionMNIST/raw"), Path("raw"))
"""Folders below the user's that may hold the files: flat, or in torchvision's layout."""


@dataclass(frozen=True)
class IdxFile:
    """One of the four published files, uncompressed."""

    name: str
    """File name without `.gz`."""
    shape: tuple[int, ...]
    """Shape of the array it holds; one byte per value."""
    sha256: str
    """Digest of the uncompressed file, equal for any compression."""


FILES = {
    "train": (
        IdxFile(
            "train-images-idx3-ubyte",
            (60000, 28, 28),
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        IdxFile(
            "train-labels-idx1-ubyte", (60000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
    ),
    "test": (
        IdxFile(
            "t10k-images-idx3-ubyte",
            (10000, 28, 28),
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        IdxFile("t10k-labels-idx1-ubyte", (10000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}
"""Split -> its images and its labels."""


class FashionMNIST:
    """One split of Fashion-MNIST in memory, an `ImageSet` of RGB images."""

    def __init__(self, split: str, folder: Path | None = None) -> None:
        """`split` is train (60,000) or test (10,000).

        `folder` holds the four files, `.gz` or not, flat or in torchvision's layout. Without it they come from the
        Debian package dataset-fashion-mnist: as installed, or unpacked once into the cache folder.

        Raises:
            UserError: for an unknown split, a missing or a damaged file.
        """
        if split not in FILES:
            raise UserError(f"fashion-mnist has no split {split!r}: choose train or test")
        pictures, labels = FILES[split]
        where = _debian_folder() if folder is None else folder
        self._images = read_idx(_find(where, pictures), pictures)
        self._labels = read_idx(_find(where, labels), labels)
        self._identity = f"{pictures.sha256} {labels.sha256}"
        self._file = pictures.name
        self.name = f"fashion-mnist:{split}"
        self.classes: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> PIL.Image.Image:
        """Image `index`, RGB, 28 × 28: the grey value in all three channels."""
        return PIL.Image.fromarray(self._images[index]).convert("RGB")

    def label(self, index: int) -> int:
        """Class of image `index`, 0 … 9."""
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        """`train-images-idx3-ubyte#position`, counted in the file."""
        return f"{self._file}#{index}"

    def digest(self) -> str:
        """sha256 (hex) of the files' digests."""
        return hashlib.sha256(self._identity.encode()).hexdigest()

    def account(self) -> Account:
        """Empty: every image is used as it is published."""
        return Account()

    def conversions(self, index: int) -> tuple[str, ...]:
        """None: a grey value repeated in three channels is the same image."""
        return ()


def read_idx(path: Path, expected: IdxFile) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes, packed with gzip if its name ends in `.gz`.

    Format: two zero bytes, 8 (unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit number,
    then the values. Never more than the expected size is unpacked.

    Raises:
        UserError: if the file can't be read, or is not the expected one to the last bit.
    """
    header = struct.pack(f">BBBB{len(expected.shape)}I", 0, 0, 8, len(expected.shape), *expected.shape)
    size = len(header) + math.prod(expected.shape)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"can't read {path} ({error}): get this file again") from error
    if not content.startswith(header):
        raise UserError(
            f"{path} is not an idx file of {' × '.join(map(str, expected.shape))} bytes: get this file again"
        )
    if len(content) != size:
        amount = "more than " if len(content) > size else f"only {len(content)} of "
        raise UserError(f"{path} holds {amount}{size} bytes: get this file again")
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise UserError(f"{path} is damaged (its sha256 is not that of the published file): get this file again")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(expected.shape)


def _find(folder: Path, file: IdxFile) -> Path:
    for place in DATA_ROOTS:
        for suffix in ("", ".gz"):
            path = folder / place / (file.name + suffix)
            if path.is_file():
                return path
    raise UserError(
        f"{folder} holds no {file.name}[.gz]: put the files {_file_names()} there or into {DATA_ROOTS[1]}/ below it"
    )


def _file_names() -> str:
    return ", ".join(f"{file.name}.gz" for split in FILES.values() for file in split)


def _debian_folder() -> Path:
    """The folder of the Debian package: installed, else unpacked in the cache, which takes no root."""
    if (installed := Path("/") / PACKAGE_FOLDER).is_dir():
        return installed
    unpacked = cache_folder() / "fashion-mnist"
    if unpacked.is_dir():
        return unpacked
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UserError(
                f"Fashion-MNIST comes from the Debian package {PACKAGE}, but there is no {tool} here: put the files "
                f"{_file_names()} into {unpacked}, or name the folder that holds them"
            )
    with atomic_folder(unpacked, unpacked.is_dir) as part:
        _run(["apt-get", "download", PACKAGE], part)
        (archive,) = part.glob("*.deb")
        _run(["dpkg-deb", "-x", archive.name, "."], part)
        for file in (part / PACKAGE_FOLDER).iterdir():
            file.rename(part / file.name)
        archive.unlink()
        shutil.rmtree(part / "usr")
    return unpacked


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
        failed, lines = done.returncode != 0, (done.stdout + done.stderr).split("\n")
    except (OSError, subprocess.TimeoutExpired) as error:
        failed, lines = True, [str(error)]
    if failed:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        raise UserError(
            f"`{' '.join(command)}` failed ({last}): run `apt-get update` as root and try again, or name a folder "
            f"that holds {_file_names()}"
        )
