"""Files at URLs, through fsspec: which of them exist, and copies of them in a folder on a local disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError, first_line
from core.files.cache_folder import cache_folder
from core.files.user_path import user_path
from core.project import extra

FOLDER, GIGABYTES = "SSL_TRANSFER_SHARDS", "SSL_TRANSFER_SHARDS_GB"
"""Environment variables: folder of the copies, and 10⁹ bytes that they may take (100 without it)."""
_THREADS = 16
_READERS = 4
_TRIES = 3
_STATE = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the state of a file, the most telling first."""


@dataclass(frozen=True)
class RemoteFile:
    url: str
    """Where it lies."""
    size: int
    """Bytes."""
    state: str
    """Its tag or time of modification, as the server states it; empty where it states none."""

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Name without its folder."""
        return self.url.rpartition("/")[2]

    @contextlib.contextmanager
    def local(self) -> Iterator[Path]:
        """Complete copy on the local disk, fetched first unless it exists; kept as long as the block lasts.

        Of several processes that ask for it one fetches it. Raises `UserError` if it can't be fetched.
        """
        folder, path = _folder(), self._copy()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)
                while not path.is_file():
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not path.is_file():
                        self._fetch(path)
                        _make_room(folder, path)
                    fcntl.flock(lock, fcntl.LOCK_SH)  # others may get the lock in between and remove the copy
                os.utime(path)
                yield path
        except OSError as error:
            raise UserError(
                f"can't keep a copy of {self.url} in {folder} ({error.strerror or first_line(error)}); free space "
                f"there, lower {GIGABYTES}, or set {FOLDER} to another folder"
            ) from None

    def is_local(self) -> bool:
        """True if a copy exists."""
        return self._copy().is_file()

    def _copy(self) -> Path:
        return _folder() / f"{hashlib.sha256(f'{self.url} {self.size} {self.state}'.encode()).hexdigest()}.copy"

    def _fetch(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        for attempt in range(_TRIES):
            try:
                system, place = _system(self.url)
                system.get_file(place, str(partial))
                if (size := partial.stat().st_size) != self.size:
                    raise EOFError(f"{size} of {self.size} bytes came")
                os.replace(partial, path)
                return
            except UserError:
                raise
            except Exception as error:  # file systems let errors of their own clients escape
                partial.unlink(missing_ok=True)
                if attempt + 1 == _TRIES:
                    raise UserError(
                        f"can't fetch {self.url} ({first_line(error)}); check the network and your rights, and give "
                        f"the same command again"
                    ) from None
                time.sleep(2**attempt)


class RemoteFiles:
    """Answers what file_patterns.py asks, for URLs."""

    def __init__(self) -> None:
        self._found: dict[str, RemoteFile | None] = {}

    def look(self, urls: Sequence[str]) -> None:
        """Asks for many files at once."""
        new = [url for url in dict.fromkeys(urls) if url not in self._found and not self.is_pattern(url)]
        with ThreadPoolExecutor(_THREADS) as threads:
            self._found.update(zip(new, threads.map(_find, new), strict=True))

    def is_file(self, url: str) -> bool:
        """True if the file exists."""
        self.look([url])
        return self._found.get(url) is not None

    def is_folder(self, url: str) -> bool:
        """False: a name in a URL is never taken for that of a folder."""
        return False

    def is_pattern(self, url: str) -> bool:
        """True if `*` stands in it; `?` begins the query of a URL."""
        return "*" in url

    def matches(self, url: str) -> list[str]:
        """Files that a pattern names, sorted."""
        try:
            system, place = _system(url)
            return sorted(str(system.unstrip_protocol(found)) for found in system.glob(place))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"can't list {url} ({first_line(error)}); give a range such as {{000..127}}") from None

    def open(self, url: str) -> RemoteFile:
        """The file."""
        self.look([url])
        found = self._found[url]
        assert found is not None
        return found


def is_url(text: str) -> bool:
    """True for `s3://…`, `https://…`, `memory://…`."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text) is not None


def read_ahead(files: Sequence[RemoteFile]) -> None:
    """Has copies made in the background, in this order; only the first process of a host does."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    _AHEAD.ask(files)


class _ReadAhead:
    """Threads that fetch what will be needed; what they can't fetch, the process that needs it reports."""

    def __init__(self) -> None:
        self._wanted: queue.Queue[RemoteFile] = queue.Queue()
        self._asked: set[str] = set()
        self._process = 0

    def ask(self, files: Sequence[RemoteFile]) -> None:
        if self._process != os.getpid():  # threads don't survive a fork
            self.__init__()  # type: ignore[misc]
            self._process = os.getpid()
            for _ in range(_READERS):
                threading.Thread(target=self._work, daemon=True).start()
        for file in files:
            if file.url not in self._asked and not file.is_local():
                self._asked.add(file.url)
                self._wanted.put(file)

    def _work(self) -> None:
        while True:
            file = self._wanted.get()
            with contextlib.suppress(UserError), file.local():
                pass
            self._asked.discard(file.url)


_AHEAD = _ReadAhead()


def _find(url: str) -> RemoteFile | None:
    """The file at a URL; None if it doesn't exist. Raises `UserError` where the server can't be asked."""
    try:
        system, place = _system(url)
        info = system.info(place)
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except Exception as error:  # file systems let errors of their own clients escape
        raise UserError(f"can't ask for {url} ({first_line(error)}); check the address and your rights") from None
    if info.get("type") == "directory":
        return None
    if not isinstance(info.get("size"), int):
        raise UserError(f"the server of {url} doesn't state its size; copy the shards to another one")
    return RemoteFile(url, info["size"], next((str(info[key]) for key in _STATE if info.get(key)), ""))


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the file's place in it. Raises `UserError` for one that is not installed."""
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{url} needs the package fsspec: {extra('fsspec')}") from None
    try:
        system, place = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"fsspec has no client for {url} ({first_line(error)}); install it") from None
    except ValueError as error:
        raise UserError(f"fsspec can't open {url} ({first_line(error)}); give a URL such as s3://BUCKET/FILE") from None
    return system, place


def _folder() -> Path:
    return user_path(given) if (given := os.environ.get(FOLDER)) else cache_folder() / "remote-shards"


def _make_room(folder: Path, newest: Path) -> None:
    """Removes copies, the longest unused first, until the rest keeps below the limit; never the newest."""
    text = os.environ.get(GIGABYTES, "100")
    try:
        most = float(text) * 1e9
    except ValueError:
        raise UserError(f"{GIGABYTES} must be a number of gigabytes, not {text!r}") from None
    copies = []
    for path in folder.glob("*.copy"):
        with contextlib.suppress(FileNotFoundError):  # another process made room, too
            stat = path.stat()
            copies.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if total <= most:
            return
        if path != newest and _remove_unused(path):
            total -= size


def _remove_unused(copy: Path) -> bool:
    """Removes a copy unless a process is using it."""
    with copy.with_suffix(".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        copy.unlink(missing_ok=True)
        return True
